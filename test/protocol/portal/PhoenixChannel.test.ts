import * as fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type ChannelEvent, PhoenixChannel } from "../../../src/protocol/portal/PhoenixChannel.ts"

interface Sent {
  readonly topic: string
  readonly event: string
  readonly payload: unknown
  readonly ref: number
}
const open = (now = 0) => {
  const channel = new PhoenixChannel("client", null, now)
  return {
    channel,
    sent: (): ReadonlyArray<Sent> => {
      const frames: Array<Sent> = []
      for (let text = channel.pollTransmit(); text !== undefined; text = channel.pollTransmit()) {
        frames.push(JSON.parse(text) as Sent)
      }
      return frames
    },
    events: (): ReadonlyArray<ChannelEvent> => {
      const events: Array<ChannelEvent> = []
      for (let event = channel.pollEvent(); event !== undefined; event = channel.pollEvent()) events.push(event)
      return events
    },
    reply: (ref: unknown, status = "ok", response: unknown = {}, topic = "client", now = 0) =>
      channel.handleText(
        JSON.stringify({ topic, event: "phx_reply", payload: { status, response }, ref }),
        now
      )
  }
}
const joined = () => {
  const it = open()
  it.sent()
  it.reply(0)
  it.events()
  return it
}

describe("Phoenix channel (portal spec 3)", () => {
  it("sends the join first with all four members, and nothing but heartbeats before its reply (test 1)", () => {
    const { channel, sent, reply, events } = open()
    expect(channel.send("no_relays", {})).toBe(true)
    expect(channel.pollTransmit()).toBe("{\"topic\":\"client\",\"event\":\"phx_join\",\"payload\":null,\"ref\":0}")
    channel.handleTimeout(4999)
    expect(sent()).toEqual([])
    reply(0)
    expect(events()).toEqual([{ _tag: "Joined" }])
    expect(sent()).toEqual([{ topic: "client", event: "no_relays", payload: {}, ref: 1 }])
  })
  it("puts a heartbeat before a join and a join before messages", () => {
    const again = joined()
    again.channel.handleTimeout(10_000)
    again.channel.send("no_relays", {})
    again.reply(77, "error", { reason: "unmatched topic" })
    expect(again.sent().map(({ event }) => event)).toEqual(["heartbeat", "phx_join"])
  })
  it("fails when the join is not answered within 5 s (test 7)", () => {
    const { channel, sent, events } = open(100)
    sent()
    expect(channel.pollTimeout()).toBe(5100)
    channel.handleTimeout(5099)
    expect(events()).toEqual([])
    channel.handleTimeout(5100)
    expect(events()).toMatchObject([{ _tag: "Failed" }])
    expect(channel.pollTimeout()).toBeUndefined()
    expect(channel.send("no_relays", {})).toBe(false)
  })
  it("takes a refused join as final, whatever the reason (test 7)", () => {
    for (const reason of ["unmatched topic", "disabled", "else"]) {
      const { sent, reply, events } = open()
      sent()
      reply(0, "error", { reason })
      expect(events()).toEqual([{ _tag: "JoinRefused", reason }])
    }
  })
  it("joins anew on the same socket when told that it is not joined (test 7)", () => {
    const { channel, sent, reply, events } = joined()
    channel.send("a", {})
    channel.send("b", {})
    expect(sent().map(({ ref }) => ref)).toEqual([1, 2])
    reply(1, "error", { reason: "unmatched topic" })
    reply(2, "error", { reason: "unmatched topic" })
    channel.send("c", {})
    expect(sent()).toEqual([{ topic: "client", event: "phx_join", payload: null, ref: 3 }])
    reply(3)
    expect(events().map(({ _tag }) => _tag)).toEqual(["RequestRefused", "RequestRefused", "Joined"])
    expect(sent().map(({ event }) => event)).toEqual(["c"])
  })
  it("beats every 10 s regardless of traffic and fails with the fourth unanswered (test 6)", () => {
    const { channel, sent, reply, events } = joined()
    const beats: Array<number> = []
    for (let now = 1000; now <= 39_000; now += 1000) {
      channel.handleText("{\"topic\":\"client\",\"event\":\"x\",\"payload\":{},\"ref\":null}", now)
      channel.handleTimeout(now)
      for (const frame of sent()) {
        expect(frame).toMatchObject({ topic: "phoenix", event: "heartbeat", payload: {} })
        beats.push(now)
      }
      reply(999, "ok", {}, "phoenix") // a wrong ref counts for nothing
    }
    expect(beats).toEqual([10_000, 20_000, 30_000])
    expect(events().filter(({ _tag }) => _tag === "Failed")).toEqual([])
    channel.handleTimeout(40_000)
    expect(events()).toMatchObject([{ _tag: "Failed" }])
  })
  it("goes on for ever while heartbeats are answered, and after a sleep of any length", () => {
    const { channel, sent, reply, events } = joined()
    for (let now = 10_000; now < 1_000_000; now += 10_000) {
      channel.handleTimeout(now)
      for (const { ref } of sent()) reply(ref, "ok", {}, "phoenix")
    }
    channel.handleTimeout(100_000_000)
    expect(sent().length).toBe(1)
    expect(channel.pollTimeout()).toBe(100_010_000)
    expect(events()).toEqual([])
  })
  it("does not queue what waits already (test 10)", () => {
    const { channel, sent, reply } = open()
    for (const id of [1, 2, 1]) expect(channel.send("request_authorization", { id })).toBe(true)
    sent()
    reply(0)
    expect(sent().map(({ payload }) => payload)).toEqual([{ id: 1 }, { id: 2 }])
    channel.send("request_authorization", { id: 1 })
    expect(sent().length).toBe(1)
  })
  it("refuses to queue without end", () => {
    const { channel } = open()
    for (let i = 0; i < 1024; i++) expect(channel.send("x", { i })).toBe(true)
    expect(channel.send("x", { i: -1 })).toBe(false)
  })
  it("obeys the control events (tests 8 and 9)", () => {
    const after = (event: string, payload: unknown, topic = "client") => {
      const { channel, events } = joined()
      channel.handleText(JSON.stringify({ topic, event, payload, ref: null }), 0)
      return events()
    }
    expect(after("phx_close", {})).toMatchObject([{ _tag: "Failed" }])
    expect(after("phx_error", { reason: "channel_crash" })).toEqual([])
    expect(after("disconnect", { reason: "token_expired" })).toEqual([{ _tag: "TokenExpired" }])
    expect(after("disconnect", { reason: "certificate_revoked" })).toEqual([
      { _tag: "Disconnecting", reason: "certificate_revoked" }
    ])
    expect(after("disconnect", null)).toEqual([{ _tag: "Disconnecting", reason: "no reason given" }])
  })
  it("hands on pushes of any topic, without a ref or with members it does not know", () => {
    const { channel, events } = joined()
    channel.handleText("{\"topic\":\"any\",\"event\":\"init\",\"payload\":{\"a\":1},\"extra\":true}", 0)
    expect(events()).toEqual([{ _tag: "Push", event: "init", payload: { a: 1 } }])
  })
  it("skips what it cannot read, but half a message ends the connection", () => {
    const { channel, events } = joined()
    for (const text of ["nope", "[]", "1", "null", "{}", "{\"event\":1}", "{\"event\":\"x\"}", "{\"a\":1}}"]) {
      channel.handleText(text, 0)
    }
    expect(events().map(({ _tag }) => _tag)).toEqual(Array(8).fill("Skipped"))
    // A name goes into the log: neither long nor with control characters.
    channel.handleText(JSON.stringify({ event: `\u001b[2J${"x".repeat(1_000_000)}` }), 0)
    expect(events()).toEqual([{ _tag: "Skipped", why: ` [2J${"x".repeat(96)} without a payload` }])
    const whole = "{\"topic\":\"client\",\"event\":\"init\",\"payload\":{\"a\":[1,\"b\",null]},\"ref\":null}"
    const cuts = Array.from({ length: whole.length }, (_, length) => whole.slice(0, length))
    const survived = cuts.filter((text) => {
      const half = joined()
      half.channel.handleText(text, 0)
      return half.events()[0]?._tag !== "Failed"
    })
    expect(survived).toEqual([])
  })
  it("returns for any text", () => {
    fc.assert(fc.property(
      fc.array(fc.oneof(
        fc.string(),
        fc.json(),
        fc.record({
          topic: fc.constantFrom("client", "phoenix", 1, null),
          event: fc.constantFrom("phx_reply", "phx_close", "disconnect", "init", 7),
          payload: fc.anything(),
          ref: fc.oneof(fc.constant(0), fc.anything())
        }, { requiredKeys: [] }).map((x) => {
          try {
            return JSON.stringify(x)
          } catch {
            return "{}"
          }
        })
      )),
      (texts) => {
        const { channel, sent, events } = open()
        sent()
        for (const text of texts) channel.handleText(text, 1)
        events()
        sent()
      }
    ))
  })
})
