import asyncio
import sys

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai import OpenAI

import bursar

bursar.init()


@bursar.tool(price="0.005")
def search(query: str) -> str:
    """Search the web."""
    return f"Three articles about {query}."


researcher = FunctionAgent(
    name="researcher", llm=OpenAI(model="gpt-4.1-mini"), tools=[search], system_prompt="Look facts up."
)


@bursar.agent("researcher")
async def research(question: str) -> str:
    """Have the researcher look a question up."""
    return str(await researcher.run(question))


editor = FunctionAgent(
    name="editor", llm=OpenAI(model="gpt-5-mini"), tools=[research], system_prompt="Write answers from research."
)


async def main(budget: str = "0.50") -> None:
    async with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        with bursar.agent("editor"):
            answer = await editor.run("Why do leaves turn red?")
    print(answer)
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
