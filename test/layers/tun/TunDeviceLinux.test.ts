/** Real devices in namespaces of this file's own: host spec sections 8.1 and 8.2. */
import { assert, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import { beforeAll } from "vitest"
import { lazily } from "../../../src/ffi/linux/libc.ts"
import {
  AF_INET,
  AF_INET6,
  closeSocket,
  connectSocket,
  encodeSockaddr,
  openSocket,
  sendDatagram,
  setOption,
  SOCK_DGRAM,
  SOL_UDP,
  UDP_SEGMENT
} from "../../../src/ffi/linux/socket.ts"
import * as ReadinessPollerAsync from "../../../src/layers/poll/ReadinessPollerAsync.ts"
import * as TunDeviceLinux from "../../../src/layers/tun/TunDeviceLinux.ts"
import { SOCKET_MARK } from "../../../src/model/policyRouting.ts"
import { ip as address, ipToBytes } from "../../../src/protocol/wire/address.ts"
import { checksum, pseudoHeaderSum6 } from "../../../src/protocol/wire/checksum.ts"
import { type Tun, TunDevice, TunFailed } from "../../../src/services/TunDevice.ts"
import { TunInterface } from "../../../src/services/TunInterface.ts"
import { isIntact } from "../../protocol/wire/packets.ts"
import { ipJson, linkExists } from "../../support/links.ts"
import { enterPrivateNetworkNamespace, ip, makeNamespace, type Namespace, run } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"
import { waitFor } from "../../support/waitFor.ts"
import {
  bareDeviceLayer,
  collectLogs,
  config,
  deviceLayer,
  deviceOver,
  interfaceLayer,
  openTun,
  TUN
} from "./support.ts"

interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program while this process goes on. */
const runBeside = (program: string, ...args: ReadonlyArray<string>): Effect.Effect<Finished> =>
  Effect.async((resume) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] })
    let stdout = ""
    let stderr = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
    child.on("close", (code) => resume(Effect.succeed({ code, stdout, stderr })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** Turns an echo request into its answer, in place (RFC 792, RFC 4443 section 4). Returns whether it was one. */
const answerEcho = (bytes: Uint8Array, at: number, length: number): boolean => {
  const v4 = (bytes[at] as number) >>> 4 === 4
  const icmp = at + (v4 ? 20 : 40)
  if (bytes[at + (v4 ? 9 : 6)] !== (v4 ? 1 : 58) || bytes[icmp] !== (v4 ? 8 : 128)) return false
  const [source, size] = v4 ? [at + 12, 4] : [at + 8, 16]
  const from = bytes.slice(source, source + size)
  bytes.copyWithin(source, source + size, source + 2 * size)
  bytes.set(from, source + size)
  bytes[icmp] = v4 ? 0 : 129
  bytes.fill(0, icmp + 2, icmp + 4)
  const body = length - (icmp - at)
  const sum = checksum(bytes, icmp, body, v4 ? 0 : pseudoHeaderSum6(bytes, at, 58, body))
  bytes[icmp + 2] = sum >>> 8
  bytes[icmp + 3] = sum & 0xff
  return true
}

/** Answers pings, and counts what it answered. */
const respond = (tun: Tun) => {
  const answered = { packets: 0, bytes: 0 }
  return tun.start({
    onPacket: (buffer, offset, length) => {
      if (!answerEcho(buffer, offset, length)) return
      tun.write(buffer, offset, length)
      answered.packets += 1
      answered.bytes += length
    },
    onBatchEnd: tun.flush
  }).pipe(Effect.as(answered))
}

/** Until two are answered, ten seconds at most; a loaded machine may send more. */
const ping = (to: string, ...more: ReadonlyArray<string>) =>
  runBeside("ping", "-n", "-c", "2", "-i", "0.05", "-w", "10", ...more, to)

const failureOf = (effect: Effect.Effect<unknown, TunFailed, Scope.Scope | TunDevice>) =>
  Effect.flip(Effect.scoped(effect)).pipe(Effect.map(({ message }) => message))

/** Where nobody listens; no other packet is for it. */
const PORT = 0x8123

const open = (name: string, offloads = true) => Effect.flatMap(TunDevice, (tuns) => tuns.open({ name, offloads }))

describeWith({ root: true, programs: ["ip", "ping"] }, "TunDeviceLinux", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it.scopedLive("lets this process answer a ping through the tunnel, in both families", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      yield* tun.configure(config("10.9.0.0/16", "fd00:9::/64"))
      const answered = yield* respond(tun)
      for (
        const [to, size] of [["10.9.0.1", 56], ["10.9.0.1", 1252], ["fd00:9::1", 56], ["fd00:9::1", 1232]] as const
      ) {
        const { code, stdout } = yield* ping(to, "-s", String(size))
        assert.strictEqual(code, 0, stdout)
        assert.include(stdout, "2 received")
      }
      const stats = tun.stats()
      assert.deepStrictEqual(stats.dropped, {})
      assert.isAtLeast(answered.packets, 8)
      assert.isAtLeast(stats.read, answered.packets)
      assert.deepStrictEqual([stats.written, stats.writtenBytes], [answered.packets, answered.bytes])
      assert.strictEqual(stats.offloads, "tso,uso,coalesce")
      // Our own sockets' packets do not come this way.
      const marked = yield* ping("10.9.0.1", "-m", String(SOCKET_MARK | 0), "-w", "1")
      assert.notStrictEqual(marked.code, 0)
      assert.strictEqual(tun.stats().written, answered.packets)
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("reads what the kernel left whole as packets that are right: trains and checksums (host 18.17)", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      yield* tun.configure(config("10.9.0.0/16", "fd00:9::/64"))
      assert.strictEqual(tun.stats().offloads, "tso,uso,coalesce")
      const read: Array<Uint8Array> = []
      yield* tun.start({
        onPacket: (buffer, offset, length) => {
          // What the kernel sends by itself is not for it.
          const at = offset + ((buffer[offset] as number) >>> 4 === 4 ? 20 : 40)
          if (buffer[at + 2] === PORT >>> 8 && buffer[at + 3] === (PORT & 0xff)) {
            read.push(buffer.slice(offset, offset + length))
          }
        },
        onBatchEnd: () => undefined
      })
      for (const [to, family, headers] of [["10.9.0.1", AF_INET, 28], ["fd00:9::1", AF_INET6, 48]] as const) {
        for (const [length, size] of [[7250, 1000], [3000, 1000], [640, 0]] as const) {
          read.length = 0
          const fd = yield* Effect.acquireRelease(
            openSocket(family, SOCK_DGRAM),
            (fd) => Effect.sync(() => closeSocket(fd))
          )
          yield* setOption(fd, SOL_UDP, UDP_SEGMENT, size, "UDP_SEGMENT")
          yield* connectSocket(fd, encodeSockaddr(ipToBytes(address(to)), PORT))
          const payload = Uint8Array.from({ length }, (_, i) => i * 7 + (i >> 8))
          yield* sendDatagram(fd, payload)
          const count = size === 0 ? 1 : Math.ceil(length / size)
          yield* waitFor("the packets", () => read.length === count)
          assert.isTrue(read.every(isIntact), `${to} ${length} ${size}`)
          assert.deepStrictEqual(Buffer.concat(read.map((packet) => packet.subarray(headers))), Buffer.from(payload))
        }
      }
      assert.deepStrictEqual(tun.stats().dropped, {})
    }).pipe(Effect.provide(deviceLayer)))

  for (const [name, layer] of [["libuv", deviceLayer], ["poll(2)", deviceOver(ReadinessPollerAsync.layer)]] as const) {
    it.scopedLive(`goes on with what it has read ahead when nothing more comes, and after a pause (${name})`, () =>
      Effect.gen(function*() {
        const tun = yield* openTun
        yield* tun.configure(config("10.9.0.0/16"))
        let read = 0
        let batches = 0
        yield* tun.start({
          onPacket: (buffer, offset) => {
            if (buffer[offset + 22] === PORT >>> 8 && buffer[offset + 23] === (PORT & 0xff)) read += 1
          },
          onBatchEnd: () => {
            batches += 1
            if (batches === 1) tun.setReading(false)
          }
        })
        const fd = yield* Effect.acquireRelease(
          openSocket(AF_INET, SOCK_DGRAM),
          (fd) => Effect.sync(() => closeSocket(fd))
        )
        yield* setOption(fd, SOL_UDP, UDP_SEGMENT, 600, "UDP_SEGMENT")
        yield* connectSocket(fd, encodeSockaddr(ipToBytes(address("10.9.0.1")), PORT))
        // More than a turn's worth, and all of it there before the first turn ends.
        for (let i = 0; i < 20; i++) yield* sendDatagram(fd, new Uint8Array(36_000))
        yield* waitFor("the first batch", () => batches > 0)
        assert.isBelow(read, 1200)
        tun.setReading(true)
        yield* waitFor("the others", () => read === 1200)
        assert.deepStrictEqual(tun.stats().dropped, {})
      }).pipe(Effect.provide(layer)))
  }

  it.scopedLive("is read just as well where libuv cannot watch it", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      yield* tun.configure(config("10.9.0.0/16"))
      yield* respond(tun)
      assert.include((yield* ping("10.9.0.1")).stdout, "2 received")
    }).pipe(Effect.provide(deviceOver(ReadinessPollerAsync.layer))))

  it.scopedLive("keeps counting when reading is started again", () =>
    Effect.gen(function*() {
      const tun = yield* openTun
      yield* tun.configure(config("10.9.0.0/16"))
      let total = 0
      for (let i = 0; i < 2; i++) {
        yield* Effect.scoped(Effect.gen(function*() {
          const answered = yield* respond(tun)
          const again = yield* Effect.flip(Effect.scoped(respond(tun)))
          assert.match(again.message, /watch tun-test.*watched already/)
          assert.include((yield* ping("10.9.0.1")).stdout, "2 received")
          total += answered.packets
        }))
        assert.strictEqual(tun.stats().written, total)
        assert.isAtLeast(tun.stats().read, total)
      }
    }).pipe(Effect.provide(deviceLayer)))

  it.live("removes the device when the scope ends, also when its set-up fails (host 18.15)", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.andThen(openTun, () => assert.isTrue(linkExists(TUN))))
      assert.isFalse(linkExists(TUN))
      const failure = new TunFailed({ step: "manage", cause: "as the test wants" })
      const layer = TunDeviceLinux.layer.pipe(
        Layer.provide(Layer.succeed(TunInterface, {
          manage: () => {
            assert.isTrue(linkExists(TUN))
            return Effect.fail(failure)
          }
        })),
        Layer.provide(interfaceLayer)
      )
      assert.strictEqual((yield* Effect.flip(Effect.scoped(Effect.provide(openTun, layer)))).message, failure.message)
      assert.isFalse(linkExists(TUN))
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("completes `closed` when somebody deletes the interface, and the scope ends cleanly", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const tun = yield* Scope.extend(openTun, scope)
      yield* tun.configure(config("10.9.0.0/16"))
      yield* Scope.extend(respond(tun), scope)
      assert.isTrue((yield* Effect.timeoutOption(tun.closed, "20 millis"))._tag === "None")
      ip(`link del ${TUN}`)
      const failure = yield* Effect.flip(Effect.timeout(tun.closed, "5 seconds"))
      assert.match(failure.message, /use tun-test.*EBADFD.*somebody removed the interface/)
      tun.write(new Uint8Array(64).fill(0x45), 0, 64)
      tun.flush()
      assert.strictEqual(tun.stats().written, 0)
      yield* Scope.close(scope, Exit.void)
    }).pipe(Effect.provide(deviceLayer)))

  it.scopedLive("notices a deleted interface by writing, too", () =>
    Effect.gen(function*() {
      const tun = yield* open(TUN)
      ip(`link del ${TUN}`)
      const packet = new Uint8Array(64).fill(0x45)
      tun.write(packet, 0, packet.length)
      tun.flush()
      assert.match((yield* Effect.flip(tun.closed)).message, /EBADFD/)
      assert.deepStrictEqual(tun.stats().dropped, { "write-EBADFD": 1 })
    }).pipe(Effect.provide(bareDeviceLayer)))

  it.scopedLive("drops and counts while the interface is down, and warns once", () => {
    const lines: Array<string> = []
    return Effect.gen(function*() {
      const tun = yield* open(TUN)
      const packet = new Uint8Array(64).fill(0x45)
      for (let i = 0; i < 3; i++) tun.write(packet, 0, packet.length)
      tun.write(packet, 60, 5) // not all there
      tun.flush()
      assert.deepStrictEqual(tun.stats().dropped, { "write-EIO": 3, "out-of-bounds": 1 })
      yield* waitFor("the warning", () => lines.length > 0)
      assert.deepStrictEqual(lines, ["packets for the tunnel device were dropped"])
    }).pipe(Effect.provide(Layer.merge(bareDeviceLayer, collectLogs(lines))))
  })

  it.live("says what is wrong with a name", () =>
    Effect.gen(function*() {
      for (const name of ["", "a b", "tun%d", "a/b", "..", "sixteen-letters-", "ümläütümläüt"]) {
        assert.match(yield* failureOf(open(name)), /not a name for an interface; use 1 to 15 bytes/, name)
      }
      yield* Effect.scoped(Effect.gen(function*() {
        yield* open(TUN)
        assert.match(
          yield* failureOf(open(TUN)),
          /attach tun-test: ioctl\(TUNSETIFF\): EBUSY \(16\); another process has/
        )
      }))
      ip(`link add ${TUN} type veth peer name other`)
      assert.match(yield* failureOf(open(TUN)), /attach tun-test:.*EINVAL.*no TUN device of this kind/)
      ip(`link del ${TUN}`)
      assert.deepStrictEqual(ipJson("link show").map(({ ifname }) => ifname), ["lo"])
    }).pipe(Effect.provide(bareDeviceLayer)))
})

const MEGABYTE = 1 << 20
/** Sends many bytes, or hashes them and sends the hash back; both print what they think it is. */
const server = `require("net").createServer({ allowHalfOpen: true }, (socket) => {
  const hash = require("crypto").createHash("sha256")
  socket.on("data", (bytes) => hash.update(bytes)).on("end", () => socket.end(hash.digest("hex")))
}).listen(5000, "::", () => console.log("listening"))`
const client = `const [host, size] = process.argv.slice(1)
const cipher = require("crypto").createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16))
const bytes = cipher.update(Buffer.alloc(Number(size)))
const socket = require("net").connect(5000, host, () => socket.end(bytes))
let answer = ""
socket.on("data", (text) => answer += text).on("close", () =>
  console.log(answer === require("crypto").createHash("sha256").update(bytes).digest("hex") ? "same" : "different"))`

describeWith({ root: true, programs: ["ip"] }, "TCP through two devices", () => {
  beforeAll(enterPrivateNetworkNamespace)

  /** One end: a namespace with a device that the test set up. */
  const end = (name: string, offloads: boolean, host: number, other: number) =>
    Effect.gen(function*() {
      const namespace = yield* makeNamespace(name)
      const tun = yield* namespace.inside(open(TUN, offloads))
      const inside = (args: string) => namespace.run("ip", ...args.split(" "))
      inside(`link set ${TUN} mtu 1280 up`)
      inside(`addr add 100.64.0.${host}/32 dev ${TUN}`)
      inside(`addr add fd00:2021:1111::${host}/128 dev ${TUN} nodad`)
      inside(`route add 100.64.0.${other}/32 dev ${TUN}`)
      inside(`-6 route add fd00:2021:1111::${other}/128 dev ${TUN}`)
      return { namespace, tun }
    })

  const bridge = (from: Tun, to: Tun) => from.start({ onPacket: to.write, onBatchEnd: to.flush })

  const listening = ({ prefix }: Namespace) =>
    Effect.gen(function*() {
      const [program = "", ...args] = prefix
      const ready = yield* Deferred.make<void>()
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          const child = spawn(program, [...args, process.execPath, "-e", server], {
            stdio: ["ignore", "pipe", "inherit"]
          })
          child.stdout.on("data", () => Deferred.unsafeDone(ready, Exit.void))
          return child
        }),
        (child) =>
          Effect.async<void>((resume) => {
            child.on("close", () => resume(Effect.void))
            child.kill("SIGKILL")
          })
      )
      yield* Deferred.await(ready)
    })

  for (const [offloads, megabytes] of [[true, 24], [false, 4]] as const) {
    it.scopedLive(`keeps every byte with offloads ${offloads ? "on" : "off"}`, () =>
      Effect.gen(function*() {
        const near = yield* end("near", offloads, 1, 2)
        const far = yield* end("far", offloads, 2, 1)
        yield* bridge(near.tun, far.tun)
        yield* bridge(far.tun, near.tun)
        yield* listening(far.namespace)
        for (const host of ["100.64.0.2", "fd00:2021:1111::2"]) {
          const [program = "", ...args] = near.namespace.prefix
          const size = String(megabytes * MEGABYTE + 12_345)
          const { code, stderr, stdout } = yield* runBeside(
            program,
            ...args,
            process.execPath,
            "-e",
            client,
            host,
            size
          )
          assert.strictEqual(code, 0, stderr)
          assert.strictEqual(stdout, "same\n")
        }
        for (const { tun } of [near, far]) {
          const { dropped, offloads: inForce } = tun.stats()
          assert.deepStrictEqual(dropped, {})
          assert.strictEqual(inForce, offloads ? "tso,uso,coalesce" : "none")
        }
        const sent = near.tun.stats()
        assert.isAbove(sent.readBytes, 2 * megabytes * MEGABYTE)
        assert.isAtMost(sent.readBytes, 1280 * sent.read)
        assert.strictEqual(far.tun.stats().written, sent.read)
      }).pipe(Effect.provide(bareDeviceLayer)))
  }
})

describeWith({ root: true, programs: ["ip", "mount"] }, "/dev/net/tun", () => {
  const NODE = "/dev/net/tun"
  beforeAll(() => {
    enterPrivateNetworkNamespace()
    const CLONE_NEWNS = 0x20000
    assert.strictEqual(lazily<(flags: number) => number>("int unshare(int flags)")()(CLONE_NEWNS), 0)
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "none", "/dev/net")
  })

  it.scopedLive("is made where there is none", () =>
    Effect.gen(function*() {
      assert.isFalse(fs.existsSync(NODE))
      yield* open(TUN)
      assert.isTrue(fs.statSync(NODE).isCharacterDevice())
      assert.strictEqual(fs.statSync(NODE).rdev, 10 << 8 | 200)
    }).pipe(Effect.provide(bareDeviceLayer)))

  it.scopedLive("that cannot be made, opened or used gives the reason and what to do", () =>
    Effect.gen(function*() {
      const asNobody = (effect: Effect.Effect<string, unknown, TunDevice>) =>
        Effect.acquireUseRelease(
          Effect.sync(() => process.seteuid?.(65_534)),
          () => effect,
          () => Effect.sync(() => process.seteuid?.(0))
        )
      fs.rmSync(NODE, { force: true })
      assert.match(
        yield* asNobody(failureOf(open(TUN))),
        /create \/dev\/net\/tun: mknod: E\w+ \(\d+\); in a container, pass/
      )
      yield* Effect.scoped(open(TUN))
      assert.match(
        yield* asNobody(failureOf(open(TUN))),
        /open \/dev\/net\/tun: open: EACCES \(13\); run as root or with/
      )
      fs.chmodSync(NODE, 0o666)
      assert.match(
        yield* asNobody(failureOf(open(TUN))),
        /attach tun-test: ioctl\(TUNSETIFF\): EPERM \(1\); run as root/
      )
      run("mount", "-o", "remount,nodev", "/dev/net")
      assert.match(yield* failureOf(open(TUN)), /open \/dev\/net\/tun: open: EACCES/)
      run("mount", "-o", "remount,dev", "/dev/net")
      fs.rmSync(NODE)
      fs.writeFileSync(NODE, "")
      assert.match(yield* failureOf(open(TUN)), /attach tun-test: ioctl\(TUNSETIFF\): ENOTTY/)
    }).pipe(Effect.provide(bareDeviceLayer)))
})
