import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"
import type { MetricsAddress } from "./MetricsExport.ts"

export type DnsControlMethod = "auto" | "systemd-resolved" | "etc-resolv-conf" | "nrpt" | "disabled"

/** Validated settings: from flags, then environment, then defaults (host spec section 2.1). */
export interface ClientSettings {
  /** `ws:` or `wss:`; already converted from http(s). */
  readonly apiUrl: URL
  /** Display name in the portal. */
  readonly name: string
  /** As configured; without one the device identity decides (host spec section 3.3). */
  readonly id: string | undefined
  readonly tokenPath: string
  readonly logDir: string | undefined
  /** Budget for reconnecting after a first success; none retries for ever. */
  readonly maxPartitionTime: Duration.Duration | undefined
  readonly dnsControl: DnsControlMethod
  readonly activateInternetResource: boolean
  /** Validate and exit before connecting. */
  readonly check: boolean
  /** Exit 0 right after the first complete interface set-up. */
  readonly exit: boolean
  /** Write the kernel's socket buffer limits (Linux). */
  readonly increaseBuffers: boolean
  readonly tunName: string
  /** Folder of the device id file. */
  readonly stateDir: string
  /** Unix socket or named pipe that `status` and `debug` talk to. */
  readonly controlSocket: string
  /** Segmentation offloads of TUN and UDP; off for diagnosis. */
  readonly offloads: boolean
  /** Which ChaCha20-Poly1305 to use; `auto` takes the fastest that passes its known-answer tests. */
  readonly aead: "auto" | "raw" | "evp" | "node"
  /** Bytes of each peer-to-peer socket's buffers; without them the defaults of host spec section 1. */
  readonly udpSendBuffer: number | undefined
  readonly udpReceiveBuffer: number | undefined
  /** Where Prometheus finds metrics. */
  readonly metricsAddress: MetricsAddress | undefined
  /** Where metrics are sent by OTLP over HTTP. */
  readonly otlpEndpoint: URL | undefined
  /** What was asked for and will not be done, for the log. */
  readonly warnings: ReadonlyArray<string>
}

/** A setting that cannot be used; exit code 1. */
export class ConfigInvalid extends Data.TaggedError("ConfigInvalid")<{
  readonly what: string
  readonly why: string
  readonly next?: string | undefined
}> {
  override get message(): string {
    return `${this.what}: ${this.why}${this.next === undefined ? "" : `. ${this.next}`}`
  }
}

export class ClientConfig
  extends Context.Tag("firezone-headless-client/services/ClientConfig")<ClientConfig, ClientSettings>()
{}
