/** The options of the client: flags, then environment, then defaults (host spec section 2.1). */
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as Options from "@effect/cli/Options"
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import { randomUUID } from "node:crypto"
import * as os from "node:os"
import * as path from "node:path"
import { isInterfaceName, MAX_INTERFACE_NAME } from "../model/policyRouting.ts"
import type { ClientSettings, DnsControlMethod } from "../services/ClientConfig.ts"
import { localUnlessAllowed, parseMetricsAddress, parseOtlpEndpoint, unsupportedMetrics } from "./metricsOptions.ts"

type Parsed<A> = Either.Either<A, string>

/** A value as it was given, and by what. */
interface Given {
  readonly value: string
  readonly source: string
}

const fromVariable = (variable: string): Config.Config<Given> =>
  Config.map(Config.string(variable), (value) => ({ value, source: variable }))

/** What is wrong is told of where it came from. */
const checked = <A>(parse: (text: string) => Parsed<A>) =>
  Options.mapTryCatch(
    (given: Given): A => Either.getOrThrowWith(parse(given.value), (why) => `${given.source}: ${why}`),
    (told) => HelpDoc.p(String(told))
  )

/** A text option with an environment variable, checked the same way from either source. */
export const text = <A>(
  name: string,
  variable: string,
  parse: (text: string) => Parsed<A>,
  alias?: string
): Options.Options<Option.Option<A>> => {
  const flag = Options.text(name)
  return (alias === undefined ? flag : Options.withAlias(flag, alias)).pipe(
    Options.map((value): Given => ({ value, source: `--${name}` })),
    Options.withFallbackConfig(fromVariable(variable)),
    checked(parse),
    Options.optional
  )
}

const parseSwitch = (value: string): Parsed<boolean> =>
  value === "true" || value === "1"
    ? Either.right(true)
    : value === "false" || value === "0"
    ? Either.right(false)
    : Either.left(`"${value}" is not true, false, 1 or 0`)

/** A switch; its variable takes `true`, `false`, `1` or `0`. */
const flag = (name: string, variable?: string): Options.Options<boolean> => {
  const option = Options.boolean(name)
  if (variable === undefined) return option
  return option.pipe(
    Options.withFallbackConfig(fromVariable(variable)),
    // Mapped only here: without the switch the library would not look for the variable.
    Options.map((given): Given => typeof given === "boolean" ? { value: String(given), source: `--${name}` } : given),
    checked(parseSwitch),
    Options.withDefault(false)
  )
}

export const nonEmpty = (value: string): Parsed<string> =>
  value === "" ? Either.left("must not be empty") : Either.right(value)
const limited = (value: string): Parsed<string> =>
  value.length > 255 ? Either.left("must have at most 255 characters") : nonEmpty(value)
const absolute = (value: string): Parsed<string> => Either.map(nonEmpty(value), (file) => path.resolve(file))

/** Turns http(s) into ws(s); refuses other schemes, and URLs that carry credentials (they would be logged). */
export const parseApiUrl = (value: string): Parsed<URL> => {
  let url: URL
  try {
    url = new URL(value)
  } catch {
    return Either.left(`"${value}" is not a URL such as wss://api.firezone.dev/`)
  }
  const scheme = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" }[url.protocol]
  if (scheme === undefined) return Either.left(`the scheme "${url.protocol}" is none of wss, ws, https, http`)
  if (url.hostname === "") return Either.left("the URL has no host")
  if (url.username !== "" || url.password !== "") return Either.left("the URL must not hold credentials")
  return Either.right(new URL(`${scheme}${value.slice(value.indexOf(":") + 1)}`))
}

/** Where a person signs in with a browser. */
export const parseAuthBaseUrl = (value: string): Parsed<URL> => {
  const url = URL.canParse(value) ? new URL(value) : undefined
  return url?.protocol === "https:" || url?.protocol === "http:"
    ? Either.right(url)
    : Either.left(`"${value}" is not a URL such as https://app.firezone.dev`)
}

/** Human durations: `90s`, `5m`, `1h 30m`, `30d`. */
export const parseDuration = (value: string): Parsed<Duration.Duration> => {
  const units: { readonly [unit: string]: number } = {
    ms: 1,
    s: 1000,
    sec: 1000,
    secs: 1000,
    second: 1000,
    seconds: 1000,
    m: 60_000,
    min: 60_000,
    mins: 60_000,
    minute: 60_000,
    minutes: 60_000,
    h: 3_600_000,
    hr: 3_600_000,
    hrs: 3_600_000,
    hour: 3_600_000,
    hours: 3_600_000,
    d: 86_400_000,
    day: 86_400_000,
    days: 86_400_000,
    w: 604_800_000,
    week: 604_800_000,
    weeks: 604_800_000
  }
  let total = 0
  const rest = value.trim().replaceAll(/(\d+)\s*([a-z]+)\s*/g, (whole, count: string, unit: string) => {
    const millis = units[unit]
    if (millis === undefined) return whole
    total += Number(count) * millis
    return ""
  })
  return rest !== "" || value.trim() === "" || !Number.isSafeInteger(total)
    ? Either.left(`"${value}" is not a duration such as 5m, 1h 30m or 30d`)
    : Either.right(Duration.millis(total))
}

const dnsMethods: { readonly [platform: string]: ReadonlyArray<DnsControlMethod> } = {
  linux: ["auto", "systemd-resolved", "etc-resolv-conf", "disabled"],
  win32: ["auto", "nrpt", "disabled"]
}
const parseDnsControl = (value: string): Parsed<DnsControlMethod> => {
  const allowed = dnsMethods[process.platform] ?? ["disabled"]
  const method = allowed.find((name) => name === value)
  return method === undefined ? Either.left(`"${value}" is none of ${allowed.join(", ")}`) : Either.right(method)
}

const parseTunName = (value: string): Parsed<string> =>
  isInterfaceName(value)
    ? Either.right(value)
    : Either.left(`"${value}" is not an interface name of 1 to ${MAX_INTERFACE_NAME} bytes`)

const parseAead = (value: string): Parsed<ClientSettings["aead"]> => {
  const name = (["auto", "raw", "evp", "node"] as const).find((name) => name === value)
  return name === undefined ? Either.left(`"${value}" is none of auto, raw, evp, node`) : Either.right(name)
}

/** The kernel takes a positive 32-bit integer. */
const parseBytes = (value: string): Parsed<number> => {
  const bytes = /^\d{1,10}$/.test(value) ? Number(value) : 0
  return bytes > 0 && bytes <= 0x7fff_ffff
    ? Either.right(bytes)
    : Either.left(`"${value}" is not a number of bytes from 1 to 2147483647`)
}

const programData = (): string => process.env["ProgramData"] ?? "C:\\ProgramData"
const defaults = {
  tokenPath: (): string =>
    process.platform === "win32"
      ? path.join(programData(), "dev.firezone.client", "token.txt")
      : "/etc/dev.firezone.client/token",
  stateDir: (): string =>
    process.platform === "win32"
      ? path.join(programData(), "dev.firezone.client", "config")
      : "/var/lib/dev.firezone.client/config",
  controlSocket: (tunName: string): string =>
    process.platform === "win32"
      ? `\\\\.\\pipe\\dev.firezone.client_headless.${tunName}`
      : `/run/dev.firezone.client/headless-${tunName}.sock`
}

const metricsAddress = Options.all({
  address: text("metrics-address", "FIREZONE_METRICS_ADDRESS", parseMetricsAddress),
  allowRemote: flag("metrics-allow-remote", "FIREZONE_METRICS_ALLOW_REMOTE")
}).pipe(
  Options.mapTryCatch(
    ({ address, allowRemote }) => localUnlessAllowed(Option.getOrUndefined(address), allowRemote),
    (told) => HelpDoc.p(told instanceof Error ? told.message : String(told))
  )
)

/** Accepted and without effect: this client sends no telemetry (host spec section 15). */
const withoutEffect = {
  noTelemetry: flag("no-telemetry", "FIREZONE_NO_TELEMETRY"),
  metrics: text("metrics", "FIREZONE_METRICS", nonEmpty),
  otlp: text("otlp-grpc-endpoint", "OTLP_GRPC_ENDPOINT", nonEmpty),
  flowLogs: flag("flow-logs", "FIREZONE_FLOW_LOGS")
}

export const clientOptions = Options.all({
  apiUrl: text("api-url", "FIREZONE_API_URL", parseApiUrl, "u"),
  name: text("firezone-name", "FIREZONE_NAME", limited),
  id: text("firezone-id", "FIREZONE_ID", limited, "i"),
  tokenPath: text("token-path", "FIREZONE_TOKEN_PATH", absolute),
  logDir: text("log-dir", "LOG_DIR", absolute, "l"),
  maxPartitionTime: text("max-partition-time", "MAX_PARTITION_TIME", parseDuration, "m"),
  dnsControl: text("dns-control", "FIREZONE_DNS_CONTROL", parseDnsControl),
  internet: flag("activate-internet-resource", "FIREZONE_ACTIVATE_INTERNET_RESOURCE"),
  check: flag("check"),
  exit: flag("exit"),
  incBuf: flag("inc-buf", "FIREZONE_INC_BUF"),
  tunName: text("tun-name", "FIREZONE_TUN_NAME", parseTunName),
  stateDir: text("state-dir", "FIREZONE_STATE_DIR", absolute),
  controlSocket: text("control-socket", "FIREZONE_CONTROL_SOCKET", nonEmpty),
  noOffloads: flag("no-offloads", "FIREZONE_NO_OFFLOADS"),
  aead: text("aead", "FIREZONE_AEAD", parseAead),
  udpSendBuffer: text("udp-send-buffer-size", "FIREZONE_UDP_SEND_BUFFER_SIZE", parseBytes),
  udpReceiveBuffer: text("udp-recv-buffer-size", "FIREZONE_UDP_RECV_BUFFER_SIZE", parseBytes),
  metricsAddress,
  otlpEndpoint: text("otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", parseOtlpEndpoint),
  ...withoutEffect
}).pipe(
  Options.map((options): ClientSettings => {
    const tunName = Option.getOrElse(options.tunName, () => process.platform === "win32" ? "Firezone" : "tun-firezone")
    return {
      apiUrl: Option.getOrElse(options.apiUrl, () => new URL("wss://api.firezone.dev/")),
      name: Option.getOrElse(options.name, () => os.hostname() || randomUUID()),
      id: Option.getOrUndefined(options.id),
      tokenPath: Option.getOrElse(options.tokenPath, defaults.tokenPath),
      logDir: Option.getOrUndefined(options.logDir),
      maxPartitionTime: Option.getOrUndefined(options.maxPartitionTime),
      dnsControl: Option.getOrElse(options.dnsControl, () => "auto" as const),
      activateInternetResource: options.internet,
      check: options.check,
      exit: options.exit,
      increaseBuffers: options.incBuf,
      tunName,
      stateDir: Option.getOrElse(options.stateDir, defaults.stateDir),
      controlSocket: Option.getOrElse(options.controlSocket, () => defaults.controlSocket(tunName)),
      offloads: !options.noOffloads,
      aead: Option.getOrElse(options.aead, () => "auto" as const),
      udpSendBuffer: Option.getOrUndefined(options.udpSendBuffer),
      udpReceiveBuffer: Option.getOrUndefined(options.udpReceiveBuffer),
      metricsAddress: options.metricsAddress,
      otlpEndpoint: Option.getOrUndefined(options.otlpEndpoint),
      warnings: unsupportedMetrics(Option.getOrUndefined(options.metrics), Option.getOrUndefined(options.otlp))
    }
  })
)
