/** Device id and hardware facts of Linux and Windows (host spec sections 3.3 and 3.4). */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { createHash, createHmac, randomBytes, randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { ClientConfig, ConfigInvalid } from "../../services/ClientConfig.ts"
import { type DeviceFacts, DeviceIdentity } from "../../services/DeviceIdentity.ts"
import { makeFolder } from "../makeFolder.ts"
import { readPlainFile } from "./readPlainFile.ts"

const FILE = "firezone-id.json"
const MAX_BYTES = 64 * 1024
/** Used as text, not decoded (host spec section 3.3). */
const MACHINE_ID_KEY = "e1e465ce763e4759945c650ac334501f"

export interface IdentityPaths {
  readonly machineId: string
  readonly dmi: string
}
const linuxPaths: IdentityPaths = { machineId: "/etc/machine-id", dmi: "/sys/class/dmi/id" }

const tryRead = (file: string): Buffer | undefined => {
  try {
    return fs.readFileSync(file)
  } catch {
    return undefined
  }
}

/** The id that older clients on this machine have: hex HMAC-SHA256 over the machine id file as it is. */
export const idFromMachineId = (content: Uint8Array): string =>
  createHmac("sha256", MACHINE_ID_KEY).update(content).digest("hex")

/** The id in the file, if the file is usable; its mode is tightened on the way. */
const idFromFile = (file: string): string | undefined => {
  try {
    const parsed: unknown = JSON.parse(readPlainFile(file, MAX_BYTES, 0o640))
    const id = (parsed as { readonly id?: unknown } | null)?.id
    return typeof id !== "string" || id === "" || id.length > 255 ? undefined : id
  } catch {
    return undefined
  }
}

/** Writes a new id without ever replacing a file: two processes that start at once end up with one id. */
const generate = (folder: string, file: string): string => {
  const id = createHash("sha256").update(randomUUID()).digest("hex")
  const temporary = path.join(folder, `.id-${randomBytes(8).toString("hex")}`)
  const descriptor = fs.openSync(temporary, "wx", 0o640)
  try {
    try {
      fs.writeSync(descriptor, JSON.stringify({ id }))
      fs.fsyncSync(descriptor)
    } finally {
      fs.closeSync(descriptor)
    }
    fs.linkSync(temporary, file)
  } finally {
    fs.rmSync(temporary, { force: true })
  }
  return id
}

/** What an image that was never started has there is the same on every machine (machine-id(5)). */
const isMachineId = (content: Uint8Array | undefined): content is Uint8Array => {
  const text = content === undefined ? "" : new TextDecoder().decode(content).trim()
  return text !== "" && text !== "uninitialized"
}

const resolveId = (stateDir: string, paths: IdentityPaths): string => {
  const file = path.join(stateDir, FILE)
  const known = idFromFile(file)
  if (known !== undefined) return known
  const machineId = process.platform === "win32" ? undefined : tryRead(paths.machineId)
  if (isMachineId(machineId)) return idFromMachineId(machineId)
  try {
    // Only a folder that this made: another one has its owner's mode.
    if (makeFolder(stateDir, 0o770)) fs.chmodSync(stateDir, 0o770)
    return generate(stateDir, file)
  } catch (cause) {
    const raced = idFromFile(file)
    if (raced !== undefined) return raced
    throw new ConfigInvalid({
      what: "device id",
      why: `none is configured, ${file} is not usable (${
        (cause as NodeJS.ErrnoException).code ?? "error"
      }), and this machine has no machine id`,
      next: "Set FIREZONE_ID"
    })
  }
}

const text = (file: string): string | undefined => {
  const value = tryRead(file)?.toString("utf8").trim()
  return value === undefined || value === "" ? undefined : value.slice(0, 255)
}

/** Absent wherever the firmware has nothing to say; that is never an error. */
const hardware = (paths: IdentityPaths): Pick<DeviceFacts, "serial" | "uuid"> => {
  const serial = text(path.join(paths.dmi, "product_serial"))
  const uuid = text(path.join(paths.dmi, "product_uuid"))?.toLowerCase()
  return {
    serial: serial === "123456789" ? undefined : serial,
    uuid: uuid === undefined || !/^[0-9a-f-]{36}$/.test(uuid) || /^[0-]+$/.test(uuid) || /^[f-]+$/.test(uuid)
      ? undefined
      : uuid
  }
}

export const layerWith = (paths: IdentityPaths): Layer.Layer<DeviceIdentity, never, ClientConfig> =>
  Layer.effect(
    DeviceIdentity,
    Effect.gen(function*() {
      const config = yield* ClientConfig
      return DeviceIdentity.of({
        facts: Effect.try({
          try: () => ({ id: config.id ?? resolveId(config.stateDir, paths), ...hardware(paths) }),
          catch: (cause) =>
            cause instanceof ConfigInvalid
              ? cause
              : new ConfigInvalid({ what: "device id", why: cause instanceof Error ? cause.message : String(cause) })
        })
      })
    })
  )
export const layer = layerWith(linuxPaths)
