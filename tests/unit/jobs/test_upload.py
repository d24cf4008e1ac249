from trio.testing import MockClock

from tests.support.fake_drive import FakeDrive
from tests.support.world import World


async def test_a(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    await world.write("a", b"hello")
    await world.drain()
    assert fake.files() == {"a": b"hello"}
