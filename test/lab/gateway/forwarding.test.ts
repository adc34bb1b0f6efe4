/** In a network namespace of this process, which nothing else sees. */
import { assert, beforeAll, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { forward } from "../../../src/lab/gateway/forwarding.ts"
import { enterPrivateNetworkNamespace, run } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"

const switches = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
const values = () => switches.map((file) => fs.readFileSync(file, "utf8").trim())
const ruleset = () => run("nft", "list", "ruleset")

describeWith({ root: true, programs: ["ip", "nft"] }, "forwarding of the gateway", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    for (const file of switches) fs.writeFileSync(file, "0")
  })

  it.live("translates the tunnel's addresses while its scope lasts", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        yield* forward(["eth0", "res0"])
        assert.deepStrictEqual(values(), ["1", "1"])
        const rules = ruleset()
        assert.match(rules, /ip saddr 100\.64\.0\.0\/11 oifname \{ "eth0", "res0" \} masquerade/)
        assert.match(rules, /ip6 saddr fd00:2021:1111::\/107 oifname \{ "eth0", "res0" \} masquerade/)
      }))
      assert.deepStrictEqual(values(), ["0", "0"])
      assert.strictEqual(ruleset(), "")
    }))

  it.live("takes the place of what a killed gateway left, and leaves other tables", () =>
    Effect.scoped(Effect.gen(function*() {
      run("nft", "add table inet firezone_gateway; add chain inet firezone_gateway stale; add table inet other")
      yield* forward(["res0"])
      assert.notInclude(ruleset(), "stale")
      assert.include(ruleset(), "table inet other")
    })))
})
