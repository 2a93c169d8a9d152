import asyncio
import sys

from agents import Agent, Runner, function_tool

import bursar

bursar.init()


@function_tool
@bursar.tool(price="0.005")
def search(query: str) -> str:
    """Search the web."""
    return f"Three articles about {query}."


researcher = Agent(name="researcher", model="gpt-4.1-mini", instructions="Look facts up.", tools=[search])


@function_tool
@bursar.agent("researcher")
async def research(question: str) -> str:
    """Have the researcher look a question up."""
    result = await Runner.run(researcher, question)
    return result.final_output


editor = Agent(name="editor", model="gpt-5-mini", instructions="Write answers from research.", tools=[research])


async def main(budget: str = "0.50") -> None:
    async with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        with bursar.agent("editor"):
            result = await Runner.run(editor, "Why do leaves turn red?")
        task.outcome("answered", value="0.40")
    print(result.final_output)
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
