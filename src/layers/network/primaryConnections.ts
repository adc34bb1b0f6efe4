import * as Stream from "effect/Stream"
import { parsePropertiesChanged } from "../../protocol/wire/dbus.ts"
import type { BusSignal, SystemBus } from "../../services/SystemBus.ts"

/** The bus knows who owns the name, also when NetworkManager starts after us. */
const RULE = {
  sender: "org.freedesktop.NetworkManager",
  path: "/org/freedesktop/NetworkManager",
  interface: "org.freedesktop.DBus.Properties",
  member: "PropertiesChanged"
}

const mayHaveChanged = (signal: BusSignal): boolean => {
  if (signal._tag === "Listening") return true
  const properties = parsePropertiesChanged(signal.message)
  return properties !== undefined && [...properties.changed, ...properties.invalidated].includes("PrimaryConnection")
}

/**
 * An element each time that NetworkManager says on the system bus that its primary connection is another one (host spec
 * section 12), and each time that we begin to listen, as what it said before is unknown. Where there is no bus or no
 * NetworkManager nothing comes, and nobody is bothered.
 */
export const primaryConnections = (bus: typeof SystemBus.Service): Stream.Stream<void> =>
  bus.signals(RULE).pipe(Stream.filter(mayHaveChanged), Stream.map(() => undefined))
