import asyncio

from tinysaver_det.runtime.serve.room import Room


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


def test_takers_wait_in_turn():
    async def go():
        room, order = Room(10), []

        async def taker(name, amount):
            await room.take(amount)
            order.append(name)

        await room.take(8)
        tasks = [asyncio.ensure_future(taker(*t)) for t in (('large', 5), ('small', 1))]
        await turns()
        assert order == []  # the small one would fit, but is not the next
        room.give(8)
        await asyncio.gather(*tasks)
        assert order == ['large', 'small'] and room.used == 6

    asyncio.run(go())


def test_what_is_too_large_gets_all_of_it_alone():
    async def go():
        room = Room(10)
        await room.take(25)
        other = asyncio.ensure_future(room.take(1))
        await turns()
        assert not other.done()
        room.give(25)
        await other
        assert room.used == 1

    asyncio.run(go())


def test_who_goes_makes_room():
    async def go():
        room = Room(10)
        await room.take(8)
        large, small = (asyncio.ensure_future(room.take(a)) for a in (5, 1))
        await turns()
        large.cancel()
        await small
        third = asyncio.ensure_future(room.take(9))
        await turns()
        room.give(8), room.give(1)
        third.cancel()  # at the moment at which it gets it
        await turns()
        assert room.used == 0

    asyncio.run(go())
