"""Records come back from their bucket, in their order, however little memory there is."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pics_data.spool import Spool

records = st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=40)), max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records, records, st.sampled_from([0, 50, 10_000]))
def test_a_bucket_gives_back_what_it_was_given(
    monkeypatch: pytest.MonkeyPatch, first: list[tuple[int, bytes]], then: list[tuple[int, bytes]], memory: int
) -> None:
    monkeypatch.setattr("pics_data.spool.MEMORY", memory)
    spool = Spool(5)
    for given_now, so_far in ((first, first), (then, first + then)):
        for bucket, record in given_now:
            spool.add(bucket, record)
        for bucket in range(5):
            assert list(spool.read(bucket)) == [record for number, record in so_far if number == bucket]
