/** What the network repeats the relay does again (connectivity spec section 7): its state is then not what it told us. */
import { assert, describe, it } from "@effect/vitest"
import { Attribute, Class, Method } from "../../../src/protocol/wire/stun.ts"
import { at, Client, mapped4, NONCE, relay4, relayed4, type Sent } from "./support.ts"

const other4 = at("203.0.113.9:50001")

const grantAgain = (client: Client, request: Sent, address = other4): boolean =>
  client.answer(
    request,
    Class.Success,
    (response) =>
      response.address(Attribute.XorRelayedAddress, address).address(Attribute.XorMappedAddress, mapped4)
        .u32(Attribute.Lifetime, 600)
  )

const deleted = (client: Client, request: Sent): boolean =>
  client.succeed(request, (response) => response.u32(Attribute.Lifetime, 0))

/** A client that found an allocation of a former life: deletion and new allocation, both answered. */
const replaced = () => {
  const client = new Client(relay4)
  client.bind()
  client.refuse(client.takeOne(Method.Allocate), 401, { nonce: NONCE })
  client.refuse(client.takeOne(Method.Allocate), 437)
  const deletion = client.takeOne(Method.Refresh)
  deleted(client, deletion)
  const creation = client.takeOne(Method.Allocate)
  client.grant(creation)
  client.takeEvents()
  return { client, creation, deletion }
}

describe("a repeated Allocate", () => {
  it("that gave another allocation has everything begin again, since nobody knows which of the two is left", () => {
    const { client, creation } = replaced()
    assert.isTrue(grantAgain(client, creation))
    assert.deepStrictEqual(client.takeEvents(), [`InvalidatedCandidate relay ${relayed4}`])
    deleted(client, client.takeOne(Method.Refresh))
    client.grant(client.takeOne(Method.Allocate), [other4])
    assert.deepStrictEqual(client.takeEvents(), [`NewCandidate relay ${other4}`])
  })

  it("whose answer is only a copy, unsigned, late, or an error changes nothing", () => {
    const { client, creation } = replaced()
    assert.isFalse(grantAgain(client, creation, relayed4), "a copy of the answer")
    assert.isFalse(client.refuse(creation, 437), "executed while there was one")
    assert.isFalse(
      client.answer(
        creation,
        Class.Success,
        (response) => response.address(Attribute.XorRelayedAddress, other4).u32(Attribute.Lifetime, 600),
        { sign: false }
      )
    )
    client.advance(4999)
    client.takeSent()
    client.advance(1)
    client.takeSent()
    assert.isFalse(grantAgain(client, creation), "too late to be one")
    assert.deepStrictEqual(client.takeEvents(), [])
  })
})

describe("a repeated deletion", () => {
  it("that says so has the allocation verified at once, and made anew if it is gone", () => {
    const { client, deletion } = replaced()
    assert.isTrue(deleted(client, deletion))
    assert.isFalse(deleted(client, deletion), "once is enough")
    client.advance(0)
    client.refuse(client.takeOne(Method.Refresh), 437)
    client.grant(client.takeOne(Method.Allocate), [other4])
    assert.deepStrictEqual(client.takeEvents(), [
      `InvalidatedCandidate relay ${relayed4}`,
      `NewCandidate relay ${other4}`
    ])
  })

  it("of which nobody tells is looked for after five seconds", () => {
    const { client } = replaced()
    client.advance(4999)
    client.assertSilent()
    client.advance(1)
    client.confirm(client.takeOne(Method.Refresh))
    assert.deepStrictEqual(client.takeEvents(), [])
    assert.deepStrictEqual(
      client.live(299_999, (sent) => client.confirm(sent)).map(({ message }) => message.method),
      [],
      "from now on at half of the lifetime"
    )
  })
})
