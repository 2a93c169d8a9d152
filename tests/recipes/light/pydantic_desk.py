import sys

from pydantic_ai import Agent

import bursar

bursar.init()

researcher = Agent("openai:gpt-4.1-mini", instructions="Look facts up.")
editor = Agent("openai:gpt-5-mini", instructions="Write answers from research.")


@researcher.tool_plain
@bursar.tool(price="0.005")
def search(query: str) -> str:
    """Search the web."""
    return f"Three articles about {query}."


@editor.tool_plain
@bursar.agent("researcher")
async def research(question: str) -> str:
    """Have the researcher look a question up."""
    result = await researcher.run(question)
    return result.output


def main(budget: str = "0.50") -> None:
    with bursar.task("answer-question", user="ada", team="support", budget=budget) as task, bursar.agent("editor"):
        result = editor.run_sync("Why do leaves turn red?")
    print(result.output)
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
