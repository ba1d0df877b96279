"""A service in Python that takes part in the mesh, written from docs/wire.md alone.

It knows the contracts only as descriptor sets. It reads commands from standard input, one a line, and prints one line of
JSON for each thing that it did. Its argument after the broker's URL is a folder with `*.fds` (descriptor sets) and
`*.seed` (nkeys of its own and of an operator).
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import nats
import nats.micro

import wire

SERVICE, CONSUMER = "orders", "watch"
DURABLE = f"{SERVICE}_{CONSUMER}"
ORDER = "shop.orders.v1.OrderPlaced"
PAYMENTS = "shop.payments.v1.Payments"
MESSAGES = "shop.notifications.v1.Notifications"
EVENTS, LANE = f"mesh1-event-{SERVICE}", f"mesh1-lane-{SERVICE}"
EFFECT_NONE, INVALID_ARGUMENT, DEADLINE_EXCEEDED, UNAVAILABLE = 1, 3, 4, 14


def say(**what):
    print(json.dumps(what), flush=True)


def now_ms():
    return int(time.time() * 1000)


class Partner:
    def __init__(self, url, folder):
        self.url, self.folder = url, folder
        self.message = wire.contracts(sorted(folder.glob("*.fds")))

    async def connect(self, user):
        """Section 13: an nkey and an inbox of its own."""
        seed, inbox = self.folder / f"{user}.seed", f"_INBOX.{user}"
        return await nats.connect(self.url, nkeys_seed=str(seed), inbox_prefix=inbox.encode())

    async def start(self):
        self.bus = await self.connect(SERVICE)
        service = await nats.micro.add_service(self.bus, name=SERVICE, version="1.0.0", queue_group="mesh")
        await service.add_endpoint(name="Send", subject=f"mesh1.call.local.{MESSAGES}.Send.*", handler=self.answer)
        await self.bus.flush()
        say(ready=True)

    async def store(self, subject, payload, headers):
        """Section 7: JetStream's acknowledgement."""
        answer = await self.bus.request(subject, payload, headers=headers, timeout=10)
        ack = json.loads(answer.data)
        if "error" in ack:
            raise RuntimeError(f"{subject}: {ack['error']}")
        return ack

    async def pull(self, stream):
        """Section 8: one delivery of its own durable consumer."""
        inbox = self.bus.new_inbox()
        deliveries = await self.bus.subscribe(inbox)
        request = {"batch": 1, "expires": 30_000_000_000, "idle_heartbeat": 5_000_000_000}
        await self.bus.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{DURABLE}", json.dumps(request).encode(), reply=inbox)
        async for delivery in deliveries.messages:
            # Without a reply subject it is a word of the broker's: a status.
            if (delivery.reply or "").startswith("$JS.ACK."):
                await deliveries.unsubscribe()
                return delivery

    async def acknowledge(self, delivery):
        await self.bus.publish(delivery.reply, b"+ACK")
        await self.bus.flush()

    async def consume(self):
        delivery = await self.pull(EVENTS)
        event = self.message(ORDER)()
        event.ParseFromString(delivery.data)
        await self.acknowledge(delivery)
        say(consumed=event.order_id, cents=event.total_cents, id=delivery.headers["Nats-Msg-Id"], subject=delivery.subject)

    async def publish(self):
        """Sections 2 to 4 and 7: an event of its own, and once more."""
        event = self.message(ORDER)(order_id="snake-1", customer_id="00001", total_cents=1177, currency="USD")
        subject = f"mesh1.event.local.{SERVICE}.{ORDER}.{wire.partition(event.customer_id)}"
        headers = {"Nats-Msg-Id": f"{SERVICE}/{ORDER}/{event.order_id}"}
        acks = [await self.store(subject, event.SerializeToString(), headers) for _ in range(2)]
        say(published=subject, duplicates=[ack.get("duplicate", False) for ack in acks])

    async def call(self, cents):
        """Section 9: asks the bank, with a deadline."""
        request = self.message("shop.payments.v1.ChargeRequest")(order_id="9", amount_cents=cents, currency="usd")
        headers = {"mesh": wire.note(d=now_ms() + 10_000)}
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
        """Section 9: answers with a reply or with a fault, in the caller's own inbox and nowhere else."""
        # The library of NATS micro shows no reply subject.
        reply_to, caller = call._msg.reply, call.subject.rsplit(".", 1)[1]
        if not reply_to.startswith(f"_INBOX.{caller}."):
            return
        deadline = wire.read_note(call.headers).get("d")
        if deadline and int(deadline) < now_ms():
            await self.refuse(call, "504", DEADLINE_EXCEEDED, "MESH-0002", "its deadline had passed when it came")
            return
        request = self.message("shop.notifications.v1.SendRequest")()
        request.ParseFromString(call.data)
        if not request.to:
            await self.refuse(call, "400", INVALID_ARGUMENT, "MESH-0007", "nobody to send it to")
            return
        reply = self.message("shop.notifications.v1.SendReply")(request_id=f"{caller}:{request.to}")
        await call.respond(reply.SerializeToString())

    async def refuse(self, call, number, code, reason, message):
        fault = self.fault(code, reason, message)
        await call.respond_error(number, f"{reason} {message}", data=fault.SerializeToString())

    def fault(self, code, reason, message):
        origin = self.message("mesh.v1.Origin")(service=SERVICE)
        return self.message("mesh.v1.Fault")(
            code=code, effect=EFFECT_NONE, reason=reason, message=message, origin=origin
        )

    async def enqueue(self):
        """Section 10: work for the bank."""
        request = self.message("shop.payments.v1.ChargeRequest")(order_id="10", amount_cents=700, currency="usd")
        subject = f"mesh1.work.local.{PAYMENTS}.Charge.urgent.{wire.partition('10')}.{SERVICE}"
        headers = {"Nats-Msg-Id": f"{SERVICE}/{PAYMENTS}.Charge/10"}
        headers["mesh"] = wire.note(d=now_ms() + 60_000, k="order 10; once")
        ack = await self.store(subject, request.SerializeToString(), headers)
        say(enqueued=headers["Nats-Msg-Id"], stream=ack["stream"])

    async def stumble(self):
        """Sections 11 and 12: one attempt that is delayed, and one that becomes a letter."""
        delivery = await self.pull(EVENTS)
        await self.delay(delivery, now_ms() + 50)
        due = await self.pull(LANE)
        original = wire.Original(due)
        letter = await self.capture(due)
        say(letter=letter, attempt=original.attempt, id=original.id, scheduled=original.scheduled)

    async def delay(self, delivery, due_ms):
        original = wire.Original(delivery)
        unique = original.unique
        lane = f"mesh1.lane.local.{SERVICE}.{CONSUMER}"
        attempts = self.attempts(delivery, self.fault(UNAVAILABLE, "MESH-0007", "not now"))
        source = f"{original.source[0]}:{original.source[1]}"
        note = dict(a=original.attempt + 1, s=original.subject, i=original.id, o=source, t=original.stored_at_ms)
        headers = original.headers | {
            "Nats-Msg-Id": f"delay/{DURABLE}/{unique}",
            "Nats-Schedule": f"@at {wire.moment(due_ms)}",
            "Nats-Schedule-Target": f"{lane}.due.{original.partition}.{original.caller}",
            "mesh": wire.note(**note),
            "mesh-attempts": wire.encode_attempts(attempts),
        }
        await self.store(f"{lane}.hold.{unique}", delivery.data, headers)
        await self.acknowledge(delivery)

    def attempts(self, delivery, fault):
        attempts = wire.decode_attempts(self.message("mesh.v1.Attempts")(), delivery.headers or {})
        number = wire.Original(delivery).attempt
        attempts.attempts.add(number=number, started_at_ms=now_ms(), duration_us=1, fault=fault)
        return attempts

    async def capture(self, delivery):
        original = wire.Original(delivery)
        stream, sequence = original.source
        new = wire.letter_id(DURABLE, stream, sequence, original.stored_at_ms, original.id)
        letter, generation, expected = original.letter or (new, 0, 0)
        fault = self.fault(INVALID_ARGUMENT, "MESH-0007", "not ever")
        source = dict(stream=stream, sequence=sequence, subject=original.subject, message_id=original.id)
        record = self.message("mesh.v1.LetterRecord")()
        record.captured.CopyFrom(
            self.message("mesh.v1.DeadLetter")(
                id=letter,
                generation=generation,
                service=SERVICE,
                consumer=CONSUMER,
                source=self.message("mesh.v1.Source")(stored_at_ms=original.stored_at_ms, deliveries=1, **source),
                message_type=ORDER,
                payload=delivery.data,
                headers=[dict(name=name, value=value) for name, value in original.headers.items()],
                fault=fault,
                attempts=self.attempts(delivery, fault).attempts,
                captured_at_ms=now_ms(),
                caller=original.caller,
            )
        )
        await self.append(letter, expected, record)
        await self.acknowledge(delivery)
        return letter

    async def append(self, letter, expected, record):
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        await self.store(f"mesh1.dead.local.{SERVICE}.{CONSUMER}.{letter}", record.SerializeToString(), headers)

    async def mend(self):
        """Section 12: a replay that is handled ends its letter."""
        delivery = await self.pull(LANE)
        original = wire.Original(delivery)
        letter, generation, ordered_at = original.letter
        record = self.message("mesh.v1.LetterRecord")()
        record.resolved.generation, record.resolved.at_ms = generation, now_ms()
        record.resolved.by, record.resolved.why = SERVICE, "handled"
        await self.append(letter, ordered_at, record)
        await self.acknowledge(delivery)
        say(mended=letter, generation=generation, attempt=original.attempt, id=original.id)

    async def discover(self):
        """Section 14, as an operator: every service that answers, until there are as many as it knows of."""
        operator = await self.connect("operator")
        inbox = operator.new_inbox()
        answers = await operator.subscribe(inbox)
        await operator.publish("$SRV.INFO", reply=inbox)
        found = {}
        async for answer in answers.messages:
            info = json.loads(answer.data)
            assert info["type"] == "io.nats.micro.v1.info_response", info
            found[info["name"]] = [[e["name"], e["subject"], e["queue_group"]] for e in info["endpoints"]]
            if len(found) == 2:
                break
        await operator.close()
        say(found=found)


async def main(url, folder):
    partner = Partner(url, Path(folder))
    await partner.start()
    commands = {
        "publish": [partner.publish],
        "consume": [partner.consume],
        "call": [lambda: partner.call(100), lambda: partner.call(0)],
        "enqueue": [partner.enqueue],
        "stumble": [partner.stumble],
        "mend": [partner.mend],
        "discover": [partner.discover],
    }
    loop = asyncio.get_running_loop()
    while (command := (await loop.run_in_executor(None, sys.stdin.readline)).strip()) not in ("done", ""):
        for act in commands[command]:
            await asyncio.wait_for(act(), 60)
    await partner.bus.close()
    say(ended=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
