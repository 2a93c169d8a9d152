import asyncio
import sys

from google.adk import Agent, Context, Workflow
from google.adk.runners import InMemoryRunner
from google.adk.workflow import node
from google.genai import types

import bursar

bursar.init()


@bursar.tool(price="0.005")
def search(query: str) -> str:
    """Search the web."""
    return f"Three articles about {query}."


researcher = Agent(name="researcher", model="gemini-2.5-flash", instruction="Look facts up.", tools=[search])
editor = Agent(name="editor", model="gemini-2.5-pro", instruction="Write answers from research.")


@node(rerun_on_resume=True)
@bursar.agent("researcher")
async def research(ctx: Context, node_input: str) -> str:
    return await ctx.run_node(researcher, node_input)


@node(rerun_on_resume=True)
@bursar.agent("editor")
async def edit(ctx: Context, node_input: str) -> str:
    return await ctx.run_node(editor, node_input)


desk = Workflow(name="desk", edges=[("START", research, edit)])


async def main(budget: str = "0.50") -> None:
    question = types.Content(role="user", parts=[types.Part(text="Why do leaves turn red?")])
    async with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        runner = InMemoryRunner(node=desk, app_name="desk")
        session = await runner.session_service.create_session(app_name="desk", user_id="ada")
        async for event in runner.run_async(user_id="ada", session_id=session.id, new_message=question):
            if event.output:
                print(event.author, event.output)
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
