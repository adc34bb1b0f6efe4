/** `doctor`'s questions over UDP, answered by coturn: sockets, routes and server are real. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { beforeAll } from "vitest"
import * as ReadinessPollerAsync from "../../src/layers/poll/ReadinessPollerAsync.ts"
import * as RouteCacheLive from "../../src/layers/route/RouteCacheLive.ts"
import * as RouteResolverLinux from "../../src/layers/route/RouteResolverLinux.ts"
import * as PeerSocketLinux from "../../src/layers/socket/PeerSocketLinux.ts"
import * as SocketFactoryLinux from "../../src/layers/socket/SocketFactoryLinux.ts"
import { askServers, mappingOf } from "../../src/programs/doctor/stun.ts"
import { ip as address, SocketAddress } from "../../src/protocol/wire/address.ts"
import { enterPrivateNetworkNamespace, ip } from "../support/netns.ts"
import { describeWith } from "../support/requires.ts"
import * as Coturn from "./Coturn.ts"

const FIRST = "192.0.2.9"
const SECOND = "192.0.2.10"
const SIXTH = "2001:db8::9"
const at = (text: string): SocketAddress => new SocketAddress(address(text), 3478)

const sockets = PeerSocketLinux.layerWith({ port: 0, sendBuffer: 65_536, receiveBuffer: 65_536 }).pipe(
  Layer.provide(SocketFactoryLinux.layer),
  Layer.provide(RouteCacheLive.layer),
  Layer.provide(RouteResolverLinux.layer),
  Layer.provide(ReadinessPollerAsync.layer)
)

describeWith({ root: true, programs: ["ip", "ss", "turnserver", "turnadmin"] }, "doctor asks coturn", () => {
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    for (const each of [`${FIRST}/32`, `${SECOND}/32`, `${SIXTH}/128`]) ip(`addr add ${each} dev lo`)
  })

  it.scopedLive(
    "and is told what it is seen as, by every address, whatever the size of the question",
    () =>
      Effect.gen(function*() {
        yield* Coturn.start({ addresses: [FIRST, SECOND, SIXTH], users: [], isBehaviourDiscovery: true })
        const all = [at(FIRST), at(SECOND), at(SIXTH)]
        const { asked, echoes, fullSize } = yield* Effect.provide(askServers(all), sockets)
        assert.deepStrictEqual(asked, all)
        assert.sameMembers(echoes.map(({ server }) => server.text), all.map(({ text }) => text))
        for (const { local, mapped } of echoes) assert.strictEqual(mapped?.text, local.text)
        assert.sameMembers(fullSize.map(({ text }) => text), all.map(({ text }) => text))
        // Each of its addresses is reached from that address itself, so there are two of ours, both as they are.
        assert.strictEqual(mappingOf(echoes), "none")

        const alone = yield* Effect.provide(askServers([at(FIRST)]), sockets)
        assert.deepStrictEqual(alone.others.map(({ server }) => server.address), [address(SECOND)])
        assert.strictEqual(mappingOf([...alone.echoes, ...alone.others]), "none")
      }),
    60_000
  )
})
