"""Inputs that the files of this folder share."""

import pytest

from faults.stages import Inputs, make_inputs, warm_up


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    warm_up()
    return make_inputs(tmp_path_factory.mktemp("faults"))
