"""A service in Python that takes part in the mesh, written from docs/wire.md alone.

It knows the contracts only as descriptor sets. It prints one line of JSON for each thing that it did, and reads
commands from standard input: "publish", "consume", "call", "done".
"""

import asyncio
import json
import sys
import time
import zlib

import nats
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "orders"
ORDER = "shop.orders.v1.OrderPlaced"
PAYMENTS = "shop.payments.v1.Payments"
MESSAGES = "shop.notifications.v1.Notifications"


def contracts(paths):
    """The message classes of some descriptor sets, by full name."""
    pool = descriptor_pool.DescriptorPool()
    known = set()
    for path in paths:
        files = descriptor_pb2.FileDescriptorSet()
        with open(path, "rb") as file:
            files.ParseFromString(file.read())
        for proto in files.file:
            if proto.name not in known:
                known.add(proto.name)
                pool.Add(proto)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def partition(key):
    """Section 2: CRC-32 of the ordering key, modulo 16."""
    return zlib.crc32(key.encode()) % 16 if key else 0


def say(**what):
    print(json.dumps(what), flush=True)


class Partner:
    def __init__(self, bus, message):
        self.bus, self.message = bus, message

    async def consume(self):
        """Section 8: pulls one event from its own durable consumer, and acknowledges it."""
        inbox = self.bus.new_inbox()
        deliveries = await self.bus.subscribe(inbox)
        request = {"batch": 1, "expires": 30_000_000_000, "idle_heartbeat": 5_000_000_000}
        stream, durable = "mesh1-event-orders", f"{SERVICE}_watch"
        await self.bus.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}", json.dumps(request).encode(), reply=inbox)
        async for delivery in deliveries.messages:
            if delivery.headers and "Status" in delivery.headers:
                continue
            event = self.message(ORDER)()
            event.ParseFromString(delivery.data)
            await self.bus.publish(delivery.reply, b"+ACK")
            say(consumed=event.order_id, cents=event.total_cents, id=delivery.headers["Nats-Msg-Id"], subject=delivery.subject)
            await deliveries.unsubscribe()
            return

    async def publish(self):
        """Sections 2 to 4 and 7: an event of its own."""
        event = self.message(ORDER)(order_id="snake-1", customer_id="00001", total_cents=1177, currency="USD")
        subject = f"mesh1.event.local.{SERVICE}.{ORDER}.{partition(event.customer_id)}"
        headers = {"Nats-Msg-Id": f"{SERVICE}/{ORDER}/{event.order_id}"}
        for expected in (False, True):
            answer = await self.bus.request(subject, event.SerializeToString(), headers=headers, timeout=10)
            ack = json.loads(answer.data)
            assert ack.get("duplicate", False) is expected, ack
        say(published=headers["Nats-Msg-Id"], subject=subject, sequence=ack["seq"])

    async def call(self, cents):
        """Section 9: asks the bank, with a deadline."""
        request = self.message("shop.payments.v1.ChargeRequest")(order_id="9", amount_cents=cents, currency="usd")
        deadline = int((time.time() + 10) * 1000)
        headers = {"mesh": f"d={deadline}"}
        subject = f"mesh1.call.local.{PAYMENTS}.Charge.{SERVICE}"
        answer = await self.bus.request(subject, request.SerializeToString(), headers=headers, timeout=10)
        if answer.headers and "Nats-Service-Error-Code" in answer.headers:
            fault = self.message("mesh.v1.Fault")()
            fault.ParseFromString(answer.data)
            say(fault=fault.reason, effect=fault.effect, code=answer.headers["Nats-Service-Error-Code"], message=fault.message)
        else:
            reply = self.message("shop.payments.v1.ChargeReply")()
            reply.ParseFromString(answer.data)
            say(charged=reply.charge_id, status=reply.status)

    async def answer(self, call):
        """Section 9: answers a call with a reply, or with a fault, in the caller's own inbox and nowhere else."""
        caller = call.subject.rsplit(".", 1)[1]
        if not call.reply.startswith(f"_INBOX.{caller}."):
            return
        request = self.message("shop.notifications.v1.SendRequest")()
        request.ParseFromString(call.data)
        if not request.to:
            fault = self.message("mesh.v1.Fault")(code=3, effect=1, reason="MESH-0007", message="nobody to send it to")
            headers = {"Nats-Service-Error": "MESH-0007 nobody to send it to", "Nats-Service-Error-Code": "400"}
            await self.bus.publish(call.reply, fault.SerializeToString(), headers=headers)
            return
        reply = self.message("shop.notifications.v1.SendReply")(request_id=f"{caller}:{request.to}")
        await self.bus.publish(call.reply, reply.SerializeToString())


async def main(url, seed, *sets):
    bus = await nats.connect(url, nkeys_seed_str=seed, inbox_prefix=f"_INBOX.{SERVICE}".encode())
    partner = Partner(bus, contracts(sets))
    await bus.subscribe(f"mesh1.call.local.{MESSAGES}.Send.*", queue="mesh", cb=partner.answer)
    await bus.flush()
    say(ready=True)
    loop = asyncio.get_running_loop()
    while (command := (await loop.run_in_executor(None, sys.stdin.readline)).strip()) != "done":
        match command:
            case "publish":
                await partner.publish()
            case "consume":
                await partner.consume()
            case "call":
                await partner.call(100)
                await partner.call(0)
            case _:
                raise SystemExit(f"unknown command {command!r}")
    await bus.close()
    say(ended=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
