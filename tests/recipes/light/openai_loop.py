import json
import sys

from openai import OpenAI

import bursar

bursar.init()
client = OpenAI()


@bursar.tool(price="0.005")
def search(query: str) -> str:
    return f"Three articles about {query}."


QUERY = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
SEARCH = {"type": "function", "function": {"name": "search", "description": "Search the web.", "parameters": QUERY}}


@bursar.agent("researcher")
def research(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    for _ in range(5):
        answer = client.chat.completions.create(model="gpt-4.1-mini", messages=messages, tools=[SEARCH])
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message)
        for call in message.tool_calls:
            result = search(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return "No answer in five steps."


@bursar.agent("editor")
def edit(notes: str) -> str:
    answer = client.responses.create(model="gpt-5-mini", instructions="Write an answer from the notes.", input=notes)
    return answer.output_text


def main(budget: str = "0.50") -> None:
    with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        print(edit(research("Why do leaves turn red?")))
        task.outcome("answered", value="0.40")
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
