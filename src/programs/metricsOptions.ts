/** The values of the options about metrics. */
import * as Either from "effect/Either"
import * as path from "node:path"
import { parseIp } from "../protocol/wire/address.ts"
import { type MetricsAddress, metricsAddressText } from "../services/MetricsExport.ts"

type Parsed<A> = Either.Either<A, string>

/** `127.0.0.1:9090`, `[::1]:9090` or `unix:/path`: no names, which may mean anything. */
export const parseMetricsAddress = (value: string): Parsed<MetricsAddress> => {
  if (value.startsWith("unix:/")) return Either.right({ _tag: "Unix", path: path.resolve(value.slice("unix:".length)) })
  const [, ipv6, ipv4, digits] = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(value) ?? []
  const host = parseIp(ipv6 ?? ipv4 ?? "")
  const port = Number(digits)
  return host !== undefined && host.includes(":") === (ipv6 !== undefined) && port >= 1 && port <= 65_535
    ? Either.right({ _tag: "Tcp", host, port })
    : Either.left(`"${value}" is not an address and port such as 127.0.0.1:9090 or [::1]:9090, nor unix:/PATH`)
}

const isLoopback = (host: string): boolean => host === "::1" || host.startsWith("127.")

/** Metrics are shown to whoever asks: that nobody outside can ask is the only protection. Throws with what is wrong. */
export const localUnlessAllowed = (address: MetricsAddress | undefined, isAllowed: boolean) => {
  if (address?._tag === "Tcp" && !isAllowed && !isLoopback(address.host)) {
    throw new RangeError(
      `metrics on ${
        metricsAddressText(address)
      } could be read from other machines, without a password: take 127.0.0.1, `
        + "[::1] or unix:/PATH, or add --metrics-allow-remote (FIREZONE_METRICS_ALLOW_REMOTE=true)"
    )
  }
  return address
}

const METRICS_PATH = "/v1/metrics"

/** The receiver's base URL, as OpenTelemetry's variable has it; yields where its metrics go. */
export const parseOtlpEndpoint = (value: string): Parsed<URL> => {
  const url = URL.canParse(value) ? new URL(value) : undefined
  if (url?.protocol !== "http:" && url?.protocol !== "https:") {
    return Either.left(`"${value}" is not a URL such as http://127.0.0.1:4318`)
  }
  if (url.username !== "" || url.password !== "" || url.search !== "") {
    return Either.left("the URL must not hold credentials or a query: put keys into OTEL_EXPORTER_OTLP_HEADERS")
  }
  const base = url.pathname.replace(/\/+$/, "")
  url.pathname = base.endsWith(METRICS_PATH) ? base : `${base}${METRICS_PATH}`
  return Either.right(url)
}

/** What the original client's options asked for and this one does in another way. */
export const unsupportedMetrics = (
  metrics: string | undefined,
  otlpGrpcEndpoint: string | undefined
): ReadonlyArray<string> => {
  const instead = "use --metrics-address ADDRESS for Prometheus, or --otlp-endpoint URL for OTLP over HTTP"
  return [
    // What it sends there by default goes to its makers; nobody has to be told that it does not.
    ...(metrics === undefined || metrics === "sentry" ? [] : [`--metrics ${metrics} has no effect: ${instead}`]),
    ...(otlpGrpcEndpoint === undefined ? [] : [`--otlp-grpc-endpoint has no effect, OTLP goes over HTTP: ${instead}`])
  ]
}
