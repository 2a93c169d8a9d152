import sys

from google import genai
from google.genai import types

import bursar

bursar.init()
client = genai.Client()


@bursar.tool(price="0.005")
def search(query: str) -> str:
    """Search the web."""
    return f"Three articles about {query}."


@bursar.agent("researcher")
def research(question: str) -> str:
    config = types.GenerateContentConfig(tools=[search])
    return client.models.generate_content(model="gemini-2.5-flash", contents=question, config=config).text


@bursar.agent("editor")
def edit(notes: str) -> None:
    request = f"Write an answer from these notes:\n\n{notes}"
    for chunk in client.models.generate_content_stream(model="gemini-2.5-pro", contents=request):
        print(chunk.text, end="", flush=True)
    print()


def main(budget: str = "0.50") -> None:
    with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        edit(research("Why do leaves turn red?"))
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
