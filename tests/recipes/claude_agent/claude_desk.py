import asyncio
import sys

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, create_sdk_mcp_server, query, tool

import bursar

bursar.init()


@bursar.tool(price="0.005")
def look_up(text: str) -> str:
    return f"Three articles about {text}."


@tool("search", "Search the web.", {"query": str})
async def search(arguments):
    return {"content": [{"type": "text", "text": look_up(arguments["query"])}]}


@tool("research", "Have the researcher look a question up.", {"question": str})
async def research(arguments):
    answer = await run("researcher", "Look facts up.", arguments["question"], search)
    return {"content": [{"type": "text", "text": answer}]}


async def run(agent, system_prompt, prompt, own_tool):
    with bursar.agent(agent):
        options = ClaudeAgentOptions(
            model="claude-haiku-4-5",
            system_prompt=system_prompt,
            tools=[],
            mcp_servers={"desk": create_sdk_mcp_server("desk", tools=[own_tool])},
            allowed_tools=[f"mcp__desk__{own_tool.name}"],
            setting_sources=[],
            env=bursar.environ(),
        )
        async for message in query(prompt=prompt, options=options):
            if isinstance(message, ResultMessage):
                answer = message.result
    return answer


async def main(budget: str = "0.50") -> None:
    async with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        print(await run("editor", "Write answers from research.", "Why do leaves turn red?", research))
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
