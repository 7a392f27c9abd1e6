"""Collections, what is done with them, and saved searches: ``/v1/collections``, ``/v1/saved-searches``."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from medfinder.errors import InputError
from medfinder.index.where import literal
from medfinder.records import Study
from medfinder.serve.access.roles import guarded
from medfinder.serve.account_routes import Done
from medfinder.serve.collection_schemas import (
    CollectionChange,
    CollectionDetail,
    CollectionOut,
    CollectionsResponse,
    KeptOut,
    NewCollection,
    NewSearch,
    NoteGiven,
    SearchesResponse,
    SearchOut,
    ShareGiven,
    ShareOut,
)
from medfinder.serve.collections import (
    Collection,
    SavedSearch,
    add_collection,
    add_search,
    change_collection,
    find_collection,
    kept_studies,
    list_collections,
    list_searches,
    list_shares,
    put_share,
    put_study,
    remove_collection,
    remove_search,
    take_share,
    take_study,
)
from medfinder.serve.export import (
    MAX_PAGES,
    MEDIA_TYPES,
    Format,
    n_bytes,
    picture_of,
    to_cases,
    to_csv,
    to_json,
    to_pdf,
    to_zip,
)
from medfinder.serve.faults import Refusal
from medfinder.serve.held import is_held
from medfinder.serve.lanes import Lane
from medfinder.serve.schemas import study_out
from medfinder.serve.service import ERRORS, Service, The, Trail
from medfinder.serve.session_routes import TheGate, Who

api = guarded("viewer", prefix="/v1", tags=["collections"], responses=ERRORS)
TAG = {"name": "collections", "description": "Studies that are kept, shared and exported."}
_IDS_A_QUERY = 500


async def _lane(request: Request) -> Lane:
    lane: Lane = request.app.state.exports
    return lane


TheLane = Annotated[Lane, Depends(_lane)]


@api.get("/collections", operation_id="get_collections")
async def get_collections(gate: TheGate, who: Who, service: The) -> CollectionsResponse:
    """Return one's own collections and those that are shared with one."""
    found = await gate.database.reading(lambda c: list_collections(c, who.account_id))
    return CollectionsResponse(collections=[await _out(x, service) for x in found])


@api.post("/collections", operation_id="add_collection")
async def post_collection(
    given: NewCollection, gate: TheGate, who: Who, service: The, trail: Trail
) -> CollectionOut:
    """Make a collection."""
    made = await gate.database.writing(
        lambda c: add_collection(c, who.account_id, given.name, given.description)
    )
    trail.append(made.collection_id)
    return await _out(made, service)


@api.get("/collections/{collection_id}", operation_id="get_collection")
async def get_collection(
    collection_id: str, gate: TheGate, who: Who, service: The, trail: Trail
) -> CollectionDetail:
    """Return a collection with its studies."""
    found = await gate.database.reading(lambda c: find_collection(c, collection_id, who.account_id))
    kept = await gate.database.reading(lambda c: kept_studies(c, found.collection_id))
    shares = (
        await gate.database.reading(lambda c: list_shares(c, found.collection_id))
        if found.permission == "owner"
        else {}
    )
    studies = await _studies(service, [k.study_id for k in kept])
    # Who is confined cannot tell a study of another source from one that is gone: both are not here.
    seen = [k for k in kept if service.sources is None or k.study_id in studies]
    trail += [k.study_id for k in seen]
    return CollectionDetail(
        **(await _out(found, service)).model_dump(),
        studies=[
            KeptOut(
                study_id=k.study_id,
                note=k.note,
                added=k.added,
                study=study_out(studies[k.study_id]) if k.study_id in studies else None,
            )
            for k in seen
        ],
        shares=[ShareOut(account=name, permission=p) for name, p in shares.items()],
    )


@api.patch("/collections/{collection_id}", operation_id="change_collection")
async def patch_collection(
    collection_id: str, given: CollectionChange, gate: TheGate, who: Who, service: The
) -> CollectionOut:
    """Change a collection's name or description."""
    changes = given.model_dump(exclude_none=True)
    made = await gate.database.writing(
        lambda c: change_collection(c, collection_id, who.account_id, **changes)
    )
    return await _out(made, service)


@api.delete("/collections/{collection_id}", operation_id="remove_collection")
async def delete_collection(collection_id: str, gate: TheGate, who: Who) -> Done:
    """Remove a collection, its notes and shares."""
    await gate.database.writing(lambda c: remove_collection(c, collection_id, who.account_id))
    return Done()


@api.put("/collections/{collection_id}/studies/{study_id}", operation_id="put_collected_study")
async def put_collected(
    collection_id: str,
    study_id: str,
    given: NoteGiven,
    gate: TheGate,
    who: Who,
    service: The,
) -> Done:
    """Put a study into a collection, or change its note."""
    if is_held(study_id):
        raise InputError(
            "An uploaded CT is held for a while only: expected a study of the index. Take it in "
            "first.",
            rule="held-study",
        )
    study = await service.study(study_id)
    await gate.database.writing(
        lambda c: put_study(c, collection_id, who.account_id, study.study_id, given.note)
    )
    return Done()


@api.delete(
    "/collections/{collection_id}/studies/{study_id}", operation_id="remove_collected_study"
)
async def delete_collected(
    collection_id: str, study_id: str, gate: TheGate, who: Who, service: The
) -> Done:
    """Take a study out of a collection."""
    if service.sources is not None:
        await service.study(study_id)
    await gate.database.writing(lambda c: take_study(c, collection_id, who.account_id, study_id))
    return Done()


@api.put("/collections/{collection_id}/shares/{account}", operation_id="share_collection")
async def put_shared(
    collection_id: str, account: str, given: ShareGiven, gate: TheGate, who: Who
) -> Done:
    """Share a collection; who is confined sees in it only what they see elsewhere."""
    await gate.database.writing(
        lambda c: put_share(c, collection_id, who.account_id, account, given.permission)
    )
    return Done()


@api.delete("/collections/{collection_id}/shares/{account}", operation_id="unshare_collection")
async def delete_shared(collection_id: str, account: str, gate: TheGate, who: Who) -> Done:
    """End a share: its owner any, everybody their own."""
    await gate.database.writing(lambda c: take_share(c, collection_id, who.account_id, account))
    return Done()


@api.get(
    "/collections/{collection_id}/export",
    operation_id="export_collection",
    response_class=Response,
    responses={
        200: {
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("text/csv", "application/pdf", "application/zip", "application/json")
            },
            "description": "The collection, anonymised.",
        }
    },
)
async def export_collection(
    collection_id: str,
    gate: TheGate,
    who: Who,
    service: The,
    lane: TheLane,
    trail: Trail,
    form: Annotated[Format, Query(alias="format")] = "csv",
) -> Response:
    """Return a collection as a file that identifies nobody; volumes come as they are read."""
    found = await gate.database.reading(lambda c: find_collection(c, collection_id, who.account_id))
    kept = await gate.database.reading(lambda c: kept_studies(c, found.collection_id))
    studies = await _studies(service, [k.study_id for k in kept])
    whole = [(k, studies[k.study_id]) for k in kept if k.study_id in studies]
    trail += [k.study_id for k, _ in whole]
    media_type, suffix = MEDIA_TYPES[form]
    headers = {"content-disposition": f'attachment; filename="collection.{suffix}"'}
    name, description = found.name, found.description
    if form in ("nifti", "dicom"):
        most = gate.config.max_export_bytes
        if n_bytes([study for _, study in whole]) > most:
            raise _too_large(f"{most / 2**20:.0f} MiB of voxels")
        parts = to_zip(form, name, description, whole, service.load, lane)
        return StreamingResponse(parts, media_type=media_type, headers=headers)
    cases = await lane.run(partial(to_cases, whole))
    if form == "csv":
        body = await lane.run(partial(to_csv, cases))
    elif form == "json":
        body = await lane.run(partial(to_json, name, description, cases))
    else:
        if len(cases) > MAX_PAGES:
            raise _too_large(f"{MAX_PAGES} studies")
        pictures = [await _picture(service, study, lane) for _, study in whole]
        body = await lane.run(partial(to_pdf, name, description, cases, pictures))
    return Response(body, media_type=media_type, headers=headers)


@api.get("/saved-searches", operation_id="get_saved_searches")
async def get_searches(gate: TheGate, who: Who) -> SearchesResponse:
    """Return one's saved searches."""
    found = await gate.database.reading(lambda c: list_searches(c, who.account_id))
    return SearchesResponse(searches=[_search_out(x) for x in found])


@api.post("/saved-searches", operation_id="save_search")
async def post_search(given: NewSearch, gate: TheGate, who: Who, trail: Trail) -> SearchOut:
    """Keep a search."""
    made = await gate.database.writing(
        lambda c: add_search(c, who.account_id, given.name, given.query)
    )
    trail.append(made.search_id)
    return _search_out(made)


@api.delete("/saved-searches/{search_id}", operation_id="remove_saved_search")
async def delete_search(search_id: str, gate: TheGate, who: Who) -> Done:
    """Forget a saved search."""
    await gate.database.writing(lambda c: remove_search(c, who.account_id, search_id))
    return Done()


async def _studies(service: Service, ids: Sequence[str]) -> dict[str, Study]:
    """Return those of the studies that are there for who asks."""

    def find() -> dict[str, Study]:
        found: dict[str, Study] = {}
        index = service.finder.index
        for start in range(0, len(ids), _IDS_A_QUERY):
            part = ", ".join(literal(i) for i in ids[start : start + _IDS_A_QUERY])
            there = index.ids(f"study_id IN ({part})")
            found |= {study.study_id: study for study in index.studies(there)}
        return found

    return await service.rows(find)


async def _out(found: Collection, service: Service) -> CollectionOut:
    n_studies = len(found.study_ids)
    if service.sources is not None and n_studies:
        n_studies = len(await _studies(service, found.study_ids))
    return CollectionOut(
        collection_id=found.collection_id,
        name=found.name,
        description=found.description,
        owner=found.owner,
        permission=found.permission,
        n_studies=n_studies,
        created=found.created,
        changed=found.changed,
    )


async def _picture(service: Service, study: Study, lane: Lane) -> bytes | None:
    try:
        pixels = await service.load(study)
    except Refusal:  # its file is gone: the report is still worth a page
        return None
    return await lane.run(partial(picture_of, pixels))


def _search_out(found: SavedSearch) -> SearchOut:
    return SearchOut(
        search_id=found.search_id, name=found.name, query=found.query, created=found.created
    )


def _too_large(most: str) -> Refusal:
    return Refusal(
        413,
        "TooLarge",
        f"The collection is too large for this format: expected at most {most}.",
        "Export it in parts, or as CSV.",
    )
