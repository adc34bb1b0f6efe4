/** Where the system bus is if nothing says otherwise (D-Bus specification, "Well-known Message Bus Instances"). */
export const SYSTEM_BUS_ADDRESS = "unix:path=/var/run/dbus/system_bus_socket"

const percentDecoded = (value: string): string | undefined => {
  try {
    return decodeURIComponent(value)
  } catch {
    return undefined
  }
}

/** The first Unix socket with a path among the addresses of a bus (D-Bus specification, "Server Addresses"). */
export const busSocketPath = (addresses: string): string | undefined => {
  for (const address of addresses.split(";")) {
    const [, pairs] = /^unix:(.*)$/s.exec(address) ?? []
    const path = pairs?.split(",").find((pair) => pair.startsWith("path="))
    const decoded = path === undefined ? undefined : percentDecoded(path.slice("path=".length))
    if (decoded !== undefined && decoded.startsWith("/")) return decoded
  }
  return undefined
}
