import sys

from anthropic import Anthropic

import bursar

bursar.init()
client = Anthropic()


@bursar.tool(price="0.005")
def search(query: str) -> str:
    return f"Three articles about {query}."


QUERY = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
SEARCH = {"name": "search", "description": "Search the web.", "input_schema": QUERY}


@bursar.agent("researcher")
def research(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    for _ in range(5):
        with client.messages.stream(
            model="claude-haiku-4-5", max_tokens=1000, messages=messages, tools=[SEARCH]
        ) as stream:
            message = stream.get_final_message()
        if message.stop_reason != "tool_use":
            return message.content[-1].text
        messages.append({"role": "assistant", "content": message.content})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": search(**block.input)}
            for block in message.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": results})
    return "No answer in five steps."


@bursar.agent("editor")
def edit(notes: str) -> None:
    request = {"role": "user", "content": f"Write an answer from these notes:\n\n{notes}"}
    with client.messages.stream(model="claude-sonnet-4-5", max_tokens=1000, messages=[request]) as stream:
        for text in stream.text_stream:
            print(text, end="", flush=True)
    print()


def main(budget: str = "0.50") -> None:
    with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        edit(research("Why do leaves turn red?"))
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
