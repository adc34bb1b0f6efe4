import { assert, describe, it } from "@effect/vitest"
import { areCompatible, isWellLaidOut, knowsSites, parseAgent } from "../../../src/lab/portal/agent.ts"
import { iceCredentials, ingestToken, presharedKey, relayId } from "../../../src/lab/portal/derivations.ts"
import { relayEntries } from "../../../src/lab/portal/views.ts"
import { keyFrom } from "./support.ts"

const client = {
  id: "11111111-1111-4111-8111-111111111111",
  publicKey: keyFrom(0),
  pskBase: new Uint8Array(32).fill(0xaa)
}
const gateway = {
  id: "22222222-2222-4222-8222-222222222222",
  publicKey: keyFrom(32),
  pskBase: new Uint8Array(32).fill(0xbb)
}

// Portal spec sections 9.2 to 9.4, with the values of its examples.
describe("derived values", () => {
  it("make the preshared key and both ICE credentials of the examples", () => {
    assert.strictEqual(presharedKey(client, gateway), "q8Vg5uTVUXn/Twe2E0aVaXAOjAh9dKuPDDTFvBSVjjE=")
    assert.deepStrictEqual(iceCredentials(client, gateway), {
      client: { username: "w7up", password: "ksqwm66pilnb7skdwwfw3r" },
      gateway: { username: "kwe6", password: "mzkrj52x5h5ebrfdsh5iyq" }
    })
  })

  it("make the relay of the example, once for each family", () => {
    assert.strictEqual(relayId("test-stamp-secret"), "ff1d59c9-c5ee-4269-ab82-65037beece54")
    const relay = {
      id: relayId("test-stamp-secret"),
      stampSecret: "test-stamp-secret",
      ipv4: "203.0.113.9",
      ipv6: "2001:db8::9",
      port: 3478
    }
    const shared = {
      type: "turn",
      id: relay.id,
      username: "1893456000:kF8o3vGOqsBa5vErLDRSdEr69ibaE0PVezlbVE4FGbY",
      password: "pfmkA1qfIVWz7VkiLpuviIIxlB8lw4HfoFgRkKmmd3Y",
      expires_at: 1_893_456_000
    }
    assert.deepStrictEqual(relayEntries([relay], { deviceKey: client.publicKey, expiresAt: 1_893_456_000 }), [
      { ...shared, addr: "203.0.113.9:3478" },
      { ...shared, addr: "[2001:db8::9]:3478" }
    ])
  })

  it("make a token with every claim that a reference decoder needs", () => {
    const token = ingestToken({
      role: "initiator",
      authorizationId: "44444444-4444-4444-8444-444444444444",
      initiatorId: client.id,
      responderId: gateway.id,
      resource: { id: "66666666-6666-4666-8666-666666666666", name: "Intranet" },
      authorizedAt: 1_893_000_000,
      expiresAt: 1_893_456_000
    })
    const [header = "", claims = "", signature = ""] = token.split(".")
    const read = (text: string): Record<string, unknown> =>
      JSON.parse(Buffer.from(text, "base64url").toString()) as Record<string, unknown>
    assert.strictEqual(read(header)["alg"], "HS256")
    assert.match(signature, /^[-\w]{43}$/)
    assert.strictEqual(read(claims)["exp"], 1_893_456_000 + 30 * 24 * 3600)
    assert.strictEqual(read(claims)["uploads_enabled"], false)
    assert.includeMembers(Object.keys(read(claims)), [
      ...["account_id", "iat", "exp", "uploads_enabled", "role", "initiator_device_id", "responder_device_id"],
      ...["policy_authorization_id", "policy_id", "resource_id", "resource_name", "initiator_actor_id"],
      ...["initiator_actor_name", "authorized_at", "authorization_expires_at"]
    ])
  })
})

// Portal spec section 12.1.
describe("user agents", () => {
  const agent = (role: "client" | "gateway", text: string) => {
    const parsed = parseAgent(role, text)
    if (parsed === undefined) throw new Error(`not read: ${text}`)
    return parsed
  }

  it("are found behind the system and in front of anything else", () => {
    const text = "Mac OS/15.1.0 apple-client/1.5.20 (arm64; 24.1.0) more/1.0.0"
    assert.deepStrictEqual(agent("client", text), { component: "apple-client", version: [1, 5, 20] })
    assert.isTrue(isWellLaidOut(text, agent("client", text)))
    assert.isUndefined(parseAgent("client", "Ubuntu/24.4.0 gateway/1.6.1"))
    assert.isUndefined(parseAgent("client", "curl/8.5.0"))
    for (const odd of ["headless-client/1.5.12 Ubuntu/24.4.0", "Ubuntu headless-client/1.5.12"]) {
      assert.isFalse(isWellLaidOut(odd, agent("client", odd)), odd)
    }
    assert.isFalse(isWellLaidOut("Debian/12.0.0 gateway/1.6", agent("gateway", "Debian/12.0.0 gateway/1.6")))
  })

  it("go together one minor version apart", () => {
    const client = agent("client", "Debian/12.0.0 headless-client/1.5.12")
    const compatible = ["1.3.9", "1.4.0", "1.5.0", "1.6.99", "1.7.0", "2.5.0", "1.5.0-rc1"]
      .filter((version) => areCompatible(client, agent("gateway", `Debian/12.0.0 gateway/${version}`)))
    assert.deepStrictEqual(compatible, ["1.4.0", "1.5.0", "1.6.99"])
    const unknown = agent("client", "Debian/12.0.0 headless-client/nightly")
    assert.isFalse(areCompatible(unknown, agent("gateway", "Debian/12.0.0 gateway/1.5.0")))
  })

  it("decide whether a client is told of sites or of gateway groups", () => {
    const knowing = ["headless-client/1.5.5", "headless-client/1.5.6", "gui-client/1.5.9", "apple-client/1.5.11"]
      .filter((text) => knowsSites(agent("client", text)))
    assert.deepStrictEqual(knowing, ["headless-client/1.5.6", "apple-client/1.5.11"])
  })
})
