import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as net from "node:net"
import { busSocketPath } from "../../protocol/dbus/busAddress.ts"
import { BusListener } from "../../protocol/dbus/BusListener.ts"
import { type BusMessage, parsePropertiesChanged } from "../../protocol/wire/dbus.ts"

/** The bus knows who owns the name, also when NetworkManager starts after us. */
const RULE = [
  "type='signal'",
  "sender='org.freedesktop.NetworkManager'",
  "path='/org/freedesktop/NetworkManager'",
  "interface='org.freedesktop.DBus.Properties'",
  "member='PropertiesChanged'"
].join()

/** Hosts without a bus are asked for ever, hence seldom: the kernel tells us all the same, and sooner. */
const RECONNECT = Schedule.spaced("30 seconds")

/** Elements that a slow subscriber may be behind; of more the oldest go, since each says only "look again". */
const BUFFERED = 16

const isOfPrimaryConnection = (message: BusMessage): boolean => {
  const properties = parsePropertiesChanged(message)
  return properties !== undefined && [...properties.changed, ...properties.invalidated].includes("PrimaryConnection")
}

const connection = (path: string, uid: number): Stream.Stream<void, string> =>
  Stream.asyncPush<void, string>(
    (emit) =>
      Effect.acquireRelease(
        Effect.sync(() => {
          const listener = new BusListener(uid, RULE)
          const socket = net.connect({ path })
          const drain = (): void => {
            for (let bytes = listener.pollTransmit(); bytes !== undefined; bytes = listener.pollTransmit()) {
              socket.write(bytes)
            }
            for (let event = listener.pollEvent(); event !== undefined; event = listener.pollEvent()) {
              if (event._tag === "Failed") emit.fail(event.reason)
              else if (event._tag === "Subscribed" || isOfPrimaryConnection(event.message)) emit.single(undefined)
            }
          }
          socket.on("data", (bytes) => {
            listener.handleBytes(bytes)
            drain()
          })
          socket.on("error", (error) => emit.fail(error.message))
          socket.on("close", () => emit.fail("the bus went away"))
          drain()
          return socket
        }),
        (socket) => Effect.sync(() => socket.destroy())
      ),
    { bufferSize: BUFFERED, strategy: "sliding" }
  )

/**
 * An element each time that NetworkManager says on the system bus that its primary connection is another one (host spec
 * section 12), and each time that we begin to listen, as what it said before is unknown. `address` is the bus's. Where
 * there is no bus or no NetworkManager nothing comes, and nobody is bothered.
 */
export const primaryConnections = (address: string): Stream.Stream<void> =>
  Stream.suspend(() => {
    const path = busSocketPath(address)
    const uid = process.geteuid?.()
    if (path === undefined || uid === undefined) return Stream.empty
    return connection(path, uid).pipe(
      Stream.tapError((reason) => Effect.logDebug(`not listening to NetworkManager: ${reason}`)),
      Stream.retry(RECONNECT),
      Stream.orDie
    )
  })
