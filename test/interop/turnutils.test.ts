/** The relay emulator on real sockets against coturn's clients. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { beforeAll } from "vitest"
import { relayCredentials } from "../../src/lab/relay/credentials.ts"
import * as relayProcess from "../../src/lab/relay/relayProcess.ts"
import { enterPrivateNetworkNamespace, ip, run } from "../support/netns.ts"
import { describeWith } from "../support/requires.ts"
import { waitFor } from "../support/waitFor.ts"
import { daemon, type Finished, runBeside } from "./programs.ts"

const SERVER = "203.0.113.9"
const SERVER6 = "2001:db8:9::9"
const PEER = "198.51.100.21"
const PEER_PORT = 9000
const stampSecret = "a secret of the portal's"
const user = relayCredentials({ expiresAt: 1_893_456_000, stampSecret, deviceKey: "a key" })

const programs = ["ip", "ss", "turnutils_stunclient", "turnutils_uclient", "turnutils_peer"]
describeWith({ root: true, programs }, "the relay emulator and coturn's clients", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    for (const one of [SERVER, PEER]) ip(`addr add ${one}/32 dev lo`)
    ip(`addr add ${SERVER6}/128 dev lo nodad`)
  })

  const relay = relayProcess.run({ ipv4: SERVER, ipv6: SERVER6, stampSecret })

  it.scopedLive("turnutils_stunclient reads its own address, in both families", () =>
    Effect.gen(function*() {
      yield* relay
      for (const [server, family] of [[SERVER, 4], [SERVER6, 6]] as const) {
        const { code, stdout } = yield* runBeside(["turnutils_stunclient", server])
        assert.strictEqual(code, 0, stdout)
        assert.include(stdout, `IPv${family}. UDP reflexive addr: ${server}:`)
      }
    }))

  it.scopedLive(
    "turnutils_uclient allocates, refreshes, and gets back over a channel what it sent",
    () =>
      Effect.gen(function*() {
        const { state } = yield* relay
        yield* daemon(["turnutils_peer", "-L", PEER, "-p", String(PEER_PORT)])
        yield* waitFor("the peer", () => run("ss", "-Hlun").includes(`${PEER}:${PEER_PORT} `))
        // It picks any channel number from 0x4000 to 0x7fff, and gives up where we refuse those above 0x4fff.
        let last: Finished | undefined
        for (let tries = 0; tries < 60 && last?.code !== 0; tries++) {
          last = yield* runBeside([
            "turnutils_uclient",
            ...`-c -n 10 -m 1 -l 700 -z 5 -e ${PEER} -r ${PEER_PORT} -u ${user.username} -w ${user.password}`.split(
              " "
            ),
            SERVER
          ])
        }
        assert.strictEqual(last?.code, 0, last?.stdout)
        assert.include(last?.stdout, "tot_send_msgs=10, tot_recv_msgs=10")
        assert.include(last?.stdout, "tot_send_bytes ~ 7000, tot_recv_bytes ~ 7000")
        const { bytesToClients, bytesToPeers, requests, unboundFromPeers } = state()
        assert.deepStrictEqual([bytesToPeers, bytesToClients, unboundFromPeers], [7000, 7000, 0])
        assert.isAbove(requests.Refresh, 0)
      }),
    60_000
  )

  it.scopedLive("turnutils_uclient gets nothing with a wrong password", () =>
    Effect.gen(function*() {
      const { state } = yield* relay
      const { code } = yield* runBeside([
        "turnutils_uclient",
        ...`-c -n 1 -m 1 -e ${PEER} -u ${user.username} -w wrong`.split(" "),
        SERVER
      ])
      assert.notStrictEqual(code, 0)
      assert.deepStrictEqual([...state().allocations], [])
      assert.isAbove(state().errors[401] ?? 0, 1)
    }), 60_000)
})
