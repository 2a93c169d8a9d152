import sys

from crewai import Agent, Crew, Task
from crewai.tools import tool

import bursar

bursar.init()


@tool("search")
@bursar.tool(price="0.005")
def search(query: str) -> str:
    """Search the web."""
    return f"Three articles about {query}."


class Member(Agent):
    """A crew member whose work shows under its role."""

    def execute_task(self, *arguments, **options):
        with bursar.agent(self.role):
            return super().execute_task(*arguments, **options)


model = "openai/gpt-4.1-mini"
researcher = Member(role="researcher", goal="Look facts up.", backstory="Thorough.", llm=model, tools=[search])
editor = Member(role="editor", goal="Write answers from research.", backstory="Brief.", llm=model)
find = Task(description="Find out: {question}", expected_output="Facts.", agent=researcher)
write = Task(description="Answer: {question}", expected_output="A paragraph.", agent=editor, context=[find])


def main(budget: str = "0.50") -> None:
    with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        answer = Crew(agents=[researcher, editor], tasks=[find, write]).kickoff({"question": "Why do leaves turn red?"})
    print(answer.raw)
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
