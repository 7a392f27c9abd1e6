"""The tools as an agent uses them: by the real client, over stdio, and against a service."""

import asyncio
import sys

import mcp
import pytest
from mcp.client.stdio import StdioServerParameters

from medfinder.serve.client import Client
from medfinder.serve.mcp import MAX_HITS, OfIndex, OfService, make_server
from stubs.served import serving

# The real command, with the encoders of a few lines.
COMMAND = """
import sys
sys.path.insert(0, sys.argv[2])
from medfinder.model.encoder import EncoderEntry, encoders
from serve.conftest import ENCODERS
for e in ENCODERS.values():
    encoders.register(e.info.name)(EncoderEntry(e.info, type(e.encoder)))
from medfinder.cli.app import main
sys.argv = ["medfinder", "mcp", sys.argv[1]]
main()
"""


def ask(server, *calls):
    """Return what tools answer, and the tools."""

    async def run():
        async with mcp.Client(server) as client:
            tools = (await client.list_tools()).tools
            return tools, [await client.call_tool(name, given) for name, given in calls]

    return asyncio.run(asyncio.wait_for(run(), 120))


@pytest.fixture
def server(finder):
    return make_server(OfIndex(finder))


def text(answer):
    return " ".join(part.text for part in answer.content)


def test_an_agent_searches_over_stdio(index_folder, request):
    tests = str(request.config.rootpath / "tests")
    command = StdioServerParameters(
        command=sys.executable, args=["-c", COMMAND, str(index_folder), tests]
    )
    tools, (found, study, alike) = ask(
        command,
        ("search", {"query": "solid nodule", "k": 2}),
        ("get_study", {"study_id": "study-1"}),
        ("similar", {"study_id": "study-1"}),
    )
    assert [tool.name for tool in tools] == ["search", "get_study", "similar"]
    hits = found.structured_content["hits"]
    assert hits[0]["study_id"] == "study-0"
    assert hits[0]["findings_present"] == ["solid nodule"] or hits[0]["matching_sentences"]
    assert (
        study.structured_content["report"] == "Large left pleural effusion. The heart is enlarged."
    )
    assert alike.structured_content["hits"][0]["study_id"] == "study-4"
    assert "secret-path" not in text(found) + text(study) + text(alike)


def test_every_tool_only_reads(server):
    tools, _ = ask(server)
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert all(tool.description for tool in tools)


def test_findings_and_filters_narrow(server):
    _, (found, none, shunned) = ask(
        server,
        ("search", {"findings": ["derrame pleural"], "sex": "M"}),
        ("search", {"findings": ["nodule"], "age_min": 90}),
        ("search", {"query": "effusion", "without": ["consolidation"]}),
    )
    assert [h["study_id"] for h in found.structured_content["hits"]] == ["study-1"]
    assert none.structured_content["hits"] == []
    assert "study-4" not in [h["study_id"] for h in shunned.structured_content["hits"]]


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("get_study", {"study_id": "nobody"}, "no study"),
        ("similar", {"study_id": "nobody"}, "no study"),
        ("search", {}, "no query"),
        ("search", {"query": "  "}, "no query"),
        ("search", {"findings": ["nodulle"]}, "Did you mean 'nodule'"),
        ("search", {"query": "a", "k": MAX_HITS + 1}, "25"),
        ("search", {"query": "a", "sex": "X"}, "'F' or 'M'"),
    ],
)
def test_a_mistake_is_told_to_the_agent(server, tool, given, said):
    _, (answer,) = ask(server, (tool, given))
    assert answer.is_error
    assert said in text(answer)


def test_a_service_answers_as_its_index_does(finder):
    calls = [
        ("search", {"query": "solid nodule", "findings": ["nodule"]}),
        ("get_study", {"study_id": "study-2"}),
        ("similar", {"study_id": "study-1", "k": 3}),
    ]
    _, local = ask(make_server(OfIndex(finder)), *calls)
    with serving(finder) as served, Client(served.url) as client:
        server = make_server(OfService(client))
        _, remote = ask(server, *calls, ("get_study", {"study_id": "nobody"}))
    assert [a.structured_content for a in remote[:3]] == [a.structured_content for a in local]
    assert "Take ids from the hits" in text(remote[3])
