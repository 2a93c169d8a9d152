import asyncio
import sys

from openai import AsyncOpenAI

import bursar

bursar.init()
client = AsyncOpenAI()


@bursar.tool(price="0.005")
async def search(query: str) -> str:
    return f"Three articles about {query}."


@bursar.agent("researcher")
async def research(question: str) -> str:
    found = await search(question)
    answer = await client.responses.create(model="gpt-4.1-mini", input=f"{question}\n\n{found}")
    return answer.output_text


@bursar.agent("editor")
async def edit(notes: str) -> str:
    async with client.responses.stream(model="gpt-5-mini", input=f"Write an answer from:\n\n{notes}") as stream:
        return (await stream.get_final_response()).output_text


async def main(budget: str = "0.50") -> None:
    questions = ("Why do leaves turn red?", "Why do they fall?", "When do they grow?")
    async with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        notes = await asyncio.gather(*[research(question) for question in questions])
        print(await edit("\n\n".join(notes)))
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
