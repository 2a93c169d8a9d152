import sys

from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

import bursar

bursar.init()


@tool
@bursar.tool(price="0.005")
def search(query: str) -> str:
    """Search the web."""
    return f"Three articles about {query}."


researcher = create_agent(ChatOpenAI(model="gpt-4.1-mini"), tools=[search], system_prompt="Look facts up.")
editor = ChatOpenAI(model="gpt-5-mini", streaming=True)


@bursar.agent("researcher")
def research(state: MessagesState) -> MessagesState:
    return {"messages": researcher.invoke(state)["messages"]}


@bursar.agent("editor")
def edit(state: MessagesState) -> MessagesState:
    return {"messages": [editor.invoke(state["messages"])]}


graph = StateGraph(MessagesState)
graph.add_node("research", research)
graph.add_node("edit", edit)
graph.add_edge(START, "research")
graph.add_edge("research", "edit")
graph.add_edge("edit", END)
desk = graph.compile()


def main(budget: str = "0.50") -> None:
    with bursar.task("answer-question", user="ada", team="support", budget=budget) as task:
        answer = desk.invoke({"messages": [("user", "Why do leaves turn red?")]})
    print(answer["messages"][-1].text)
    print(f"{task.id} cost {task.spent} USD", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
