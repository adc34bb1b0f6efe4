/** /dev/net/tun with segmentation offloads: host spec sections 8.1 and 8.2. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { F_GETFL, F_SETFL, fcntl, mknod, O_CLOEXEC, O_NONBLOCK, O_RDWR, open, S_IFCHR } from "../../ffi/linux/file.ts"
import { close, ERRNO, errno, errnoName, lastError } from "../../ffi/linux/libc.ts"
import {
  IFF_NO_PI,
  IFF_TUN,
  IFF_VNET_HDR,
  ifreq,
  ioctlBytes,
  ioctlNumber,
  TUN_DEVICE_NUMBER,
  TUN_F_USO4,
  TUN_OFFLOADS,
  TUN_PATH,
  TUNSETIFF,
  TUNSETOFFLOAD
} from "../../ffi/linux/tun.ts"
import { SyscallError } from "../../ffi/SyscallError.ts"
import { isInterfaceName, MAX_INTERFACE_NAME } from "../../model/policyRouting.ts"
import { ReadinessPoller, type Watch } from "../../services/ReadinessPoller.ts"
import { type Tun, TunDevice, TunFailed, type TunHandlers, type TunOptions } from "../../services/TunDevice.ts"
import { TunInterface } from "../../services/TunInterface.ts"
import { DropCounts } from "./DropCounts.ts"
import { TunReader } from "./TunReader.ts"
import { TunWriter } from "./TunWriter.ts"

const NO_CAPABILITY = "run as root or with CAP_NET_ADMIN"

/** Makes the device node where a slim container or initramfs has none. */
const ensureNode = Effect.suspend(() => {
  if (fs.existsSync(TUN_PATH)) return Effect.void
  try {
    fs.mkdirSync(path.dirname(TUN_PATH), { recursive: true, mode: 0o751 })
  } catch (cause) {
    return Effect.fail(new TunFailed({ step: `create ${path.dirname(TUN_PATH)}`, cause }))
  }
  if (mknod()(TUN_PATH, S_IFCHR | 0o600, TUN_DEVICE_NUMBER) === 0 || errno() === ERRNO.EEXIST) return Effect.void
  return Effect.fail(
    new TunFailed({
      step: `create ${TUN_PATH}`,
      cause: lastError("mknod"),
      hint: "in a container, pass the device in with --device /dev/net/tun"
    })
  )
})

const openHint = (code: number): string | undefined =>
  code === ERRNO.EPERM || code === ERRNO.EACCES
    ? NO_CAPABILITY
    : code === ERRNO.ENOENT || code === ENODEV || code === ENXIO
    ? "the kernel has no TUN driver: load it with modprobe tun"
    : undefined
const ENXIO = 6
const ENODEV = 19

const attachHint = (code: number, name: string): string | undefined =>
  code === ERRNO.EPERM || code === ERRNO.EACCES
    ? NO_CAPABILITY
    : code === ERRNO.EBUSY
    ? `another process has the interface ${name} open: is a client running already?`
    : code === ERRNO.EINVAL
    ? `there is an interface ${name} already that is no TUN device of this kind: remove or rename it`
    : undefined

/** The descriptor is closed, and the interface thereby removed, by the scope. */
const openDescriptor = Effect.acquireRelease(
  Effect.suspend(() => {
    const fd = open()(TUN_PATH, O_RDWR | O_CLOEXEC, 0)
    if (fd >= 0) return Effect.succeed(fd)
    const code = errno()
    return Effect.fail(new TunFailed({ step: `open ${TUN_PATH}`, cause: failure("open", code), hint: openHint(code) }))
  }),
  (fd) => Effect.sync(() => close()(fd))
)

const attach = (fd: number, name: string) =>
  Effect.suspend(() => {
    if (ioctlBytes()(fd, TUNSETIFF, ifreq(name, IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)) === 0) return Effect.void
    const code = errno()
    return Effect.fail(
      new TunFailed({ step: `attach ${name}`, cause: failure("ioctl(TUNSETIFF)", code), hint: attachHint(code, name) })
    )
  })

/** Takes the largest set of offloads that the kernel grants, and returns its flags and name. */
const negotiateOffloads = (fd: number, wanted: boolean) =>
  Effect.gen(function*() {
    for (const set of wanted ? TUN_OFFLOADS : []) {
      if (ioctlNumber()(fd, TUNSETOFFLOAD, set.flags) === 0) return set
      yield* Effect.logInfo("the kernel does not grant an offload set of the tunnel device").pipe(
        Effect.annotateLogs({ offloads: set.name, errno: errnoName(errno()) })
      )
    }
    ioctlNumber()(fd, TUNSETOFFLOAD, 0)
    return { name: "", flags: 0 }
  })

const setNonBlocking = (fd: number) =>
  Effect.suspend(() =>
    fcntl()(fd, F_SETFL, fcntl()(fd, F_GETFL, 0) | O_NONBLOCK) === 0
      ? Effect.void
      : Effect.fail(new TunFailed({ step: "set O_NONBLOCK", cause: lastError("fcntl") }))
  )

const failure = (syscall: string, code: number): SyscallError =>
  new SyscallError({ syscall, code, errno: errnoName(code) })

const checkName = (name: string) =>
  isInterfaceName(name)
    ? Effect.void
    : Effect.fail(
      new TunFailed({
        step: `attach ${name}`,
        cause: "not a name for an interface",
        hint: `use 1 to ${MAX_INTERFACE_NAME} bytes without white space, "/", "%" and ":"`
      })
    )

const make = Effect.gen(function*() {
  const poller = yield* ReadinessPoller
  const tunInterface = yield* TunInterface

  const openTun = Effect.fn("TunDevice.open")(function*({ name, offloads }: TunOptions) {
    yield* checkName(name)
    yield* ensureNode
    const fd = yield* openDescriptor
    yield* attach(fd, name)
    const granted = yield* negotiateOffloads(fd, offloads)
    yield* setNonBlocking(fd)
    const managed = yield* tunInterface.manage(name)

    const scope = yield* Effect.scope
    const runtime = yield* Effect.runtime<never>()
    const gone = yield* Deferred.make<never, TunFailed>()
    const drops = new DropCounts()
    const onGone = (code: number): void =>
      Deferred.unsafeDone(
        gone,
        Exit.fail(
          new TunFailed({
            step: `use ${name}`,
            cause: code === 0 ? "the device has ended" : failure("read", code),
            hint: "somebody removed the interface"
          })
        )
      )
    const writer = yield* Effect.acquireRelease(
      Effect.sync(() =>
        new TunWriter(fd, {
          coalesceTcp: offloads,
          // Segmentation of UDP in one direction came with the other one.
          coalesceUdp: (granted.flags & TUN_F_USO4) !== 0,
          drops,
          onGone,
          onWarning: (message, errno) => {
            Runtime.runFork(runtime)(
              Effect.logWarning(message).pipe(Effect.annotateLogs({ interface: name, errno }))
            )
          }
        })
      ),
      (writer) => Effect.sync(() => writer.close())
    )
    let reader: TunReader | undefined
    let watch: Watch | undefined
    let reading = true
    /** A device can always be written to: what has been read already gets its turn by that. */
    const wantTurns = (): void => watch?.setWritable(reading && reader?.holdsPackets === true)

    const start = Effect.fn("Tun.start")(function*(handlers: TunHandlers) {
      // The watch ends with whichever ends first: the caller's scope, the device's, or the device itself.
      const watching = yield* Scope.fork(scope, ExecutionStrategy.sequential)
      yield* Effect.addFinalizer((exit) => Scope.close(watching, exit))
      const started = new TunReader(fd, handlers, drops, (code) => {
        onGone(code)
        Runtime.runFork(runtime)(Scope.close(watching, Exit.void))
      })
      watch = yield* poller.watch(fd, () => {
        started.drain()
        wantTurns()
      }).pipe(
        Effect.mapError((cause) => new TunFailed({ step: `watch ${name}`, cause })),
        Scope.extend(watching)
      )
      watch.setReadable(reading)
      started.setPaused(!reading)
      yield* Scope.addFinalizer(watching, Effect.sync(() => started.stop()))
      const before = reader
      reader = started
      if (before !== undefined) {
        started.packets = before.packets
        started.bytes = before.bytes
      }
    })

    return {
      name,
      interfaceIndex: managed.interfaceIndex,
      instance: managed.instance,
      start,
      setReading: (wanted) => {
        reading = wanted
        reader?.setPaused(!wanted)
        watch?.setReadable(wanted)
        wantTurns()
      },
      write: (bytes, offset, length) => writer.write(bytes, offset, length),
      flush: () => writer.flush(),
      configure: managed.configure,
      stats: () => ({
        read: reader?.packets ?? 0,
        readBytes: reader?.bytes ?? 0,
        written: writer.packets,
        writtenBytes: writer.bytes,
        dropped: drops.snapshot(),
        offloads: [granted.name, writer.coalesces ? "coalesce" : ""].filter((part) => part !== "").join(",") || "none"
      }),
      closed: Deferred.await(gone)
    } satisfies Tun
  })
  return TunDevice.of({ open: openTun })
})

export const layer: Layer.Layer<TunDevice, never, ReadinessPoller | TunInterface> = Layer.effect(TunDevice, make)
