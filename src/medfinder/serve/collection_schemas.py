"""What travels about collections and saved searches: typed requests and responses."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from medfinder.serve.collections import Permission
from medfinder.serve.schemas import Strict, StudyOut

Name = Annotated[str, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=4000)]
Note = Annotated[str, Field(max_length=4000)]


class NewCollection(Strict):
    """A collection to make."""

    name: Name
    description: Description = ""


class CollectionChange(Strict):
    """What to change; what is left out stays."""

    name: Name | None = None
    description: Description | None = None


class NoteGiven(Strict):
    """What is worth knowing of a study here."""

    note: Note = ""


class ShareGiven(Strict):
    """What somebody may do: read, or also write."""

    permission: Annotated[str, Field(pattern="^(read|write)$")]


class NewSearch(Strict):
    """A search to keep: any object that the page understands."""

    name: Name
    query: dict[str, Any]


class CollectionOut(BaseModel):
    """A collection; `permission` is that of who asks."""

    collection_id: str
    name: str
    description: str
    owner: str
    permission: Permission
    n_studies: int
    created: str
    changed: str


class KeptOut(BaseModel):
    """A study in a collection; `study` is null where the index has it no more."""

    study_id: str
    note: str
    added: str
    study: StudyOut | None


class ShareOut(BaseModel):
    """Who else may see a collection."""

    account: str
    permission: str


class CollectionDetail(CollectionOut):
    """A collection with its studies, and to its owner with whom it is shared."""

    studies: list[KeptOut]
    shares: list[ShareOut]


class CollectionsResponse(BaseModel):
    """Collections, the latest change first."""

    collections: list[CollectionOut]


class SearchOut(BaseModel):
    """A saved search."""

    search_id: str
    name: str
    query: dict[str, Any]
    created: str


class SearchesResponse(BaseModel):
    """Saved searches, the latest first."""

    searches: list[SearchOut]
