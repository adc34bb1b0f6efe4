import { assert, it } from "@effect/vitest"
import { parseRelayUsername, relayCredentials, relayPassword, relaySalt } from "../../../src/lab/relay/credentials.ts"
import { Nonces } from "../../../src/lab/relay/Nonces.ts"
import { crypto } from "./support.ts"

// Connectivity spec 16.2.
it("makes the passwords of the specification", () => {
  const secret = "4c98bf59c99b3e467ecd7cf9d6b3e5279645fca59be67bc5bb4af3cf653761ab"
  assert.strictEqual(
    relayPassword(1892160000, secret, "n23JJ2wKKtt30oXi"),
    "00hqldgk5xLeKKOB+xls9mHMVtgqzie9DulfgQwMv68"
  )
  assert.strictEqual(
    relayPassword(1685984278n, "1cab293a-4032-46f4-862a-40e5d174b0d2", "uvdgKvS9GXYZ_vmv"),
    "6xUIoZ+QvxKhRasLifwfRkMXl+ETLJUsFkHlXjlHAkg"
  )
})

it("puts the expiry and a salt of the device's key into the name", () => {
  const { password, username } = relayCredentials({ expiresAt: 7, stampSecret: "s", deviceKey: "k" })
  assert.strictEqual(username, `7:${relaySalt("k")}`)
  assert.strictEqual(password, relayPassword(7, "s", relaySalt("k")))
  assert.notInclude(relaySalt("k"), ":")
  assert.deepStrictEqual(parseRelayUsername(username), { expiresAt: 7n, salt: relaySalt("k") })
})

it("reads names with exactly two parts, the first a 64-bit number", () => {
  assert.deepStrictEqual(parseRelayUsername("18446744073709551615:"), { expiresAt: 0xffff_ffff_ffff_ffffn, salt: "" })
  for (const name of ["", "1", "1:2:3", "18446744073709551616:x", "0x10:x", " 1:x", "1.5:x", "+1:x"]) {
    assert.isUndefined(parseRelayUsername(name), name)
  }
})

it("remembers the nonces of the latest 10 000 clients", () => {
  const nonces = new Nonces(crypto)
  const first = nonces.issue("192.0.2.1:1")
  assert.isTrue(nonces.use("192.0.2.1:1", first))
  for (let port = 2; port <= 10_001; port++) nonces.issue(`192.0.2.1:${port}`)
  assert.isFalse(nonces.use("192.0.2.1:1", first))
  assert.notStrictEqual(nonces.issue("192.0.2.1:1"), first)
})
