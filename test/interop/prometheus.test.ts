/** What a real Prometheus makes of our metrics: it scrapes them, and is asked what it has understood. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { beforeAll } from "vitest"
import * as MetricsExportHost from "../../src/layers/metrics/MetricsExportHost.ts"
import { ClientConfig } from "../../src/services/ClientConfig.ts"
import { MetricsExport } from "../../src/services/MetricsExport.ts"
import { parseExposition } from "../layers/metrics/exposition.ts"
import { enterPrivateNetworkNamespace } from "../support/netns.ts"
import { describeWith, findProgram } from "../support/requires.ts"
import { settings } from "../support/settings.ts"
import { tunnelStatus } from "../support/TunnelDouble.ts"
import { waitFor } from "../support/waitFor.ts"
import { daemon } from "./programs.ts"

const OURS = 9464
const ITS = 9090
/** No peer is called so: what the text has to escape. */
const ODD = "a\"b\\c\nd{e}=,"

const configuration = `global: { scrape_interval: 200ms, scrape_timeout: 200ms }
scrape_configs: [{ job_name: client, static_configs: [{ targets: ["127.0.0.1:${OURS}"] }] }]
`

interface Series {
  readonly metric: Readonly<Record<string, string>>
  readonly value: readonly [time: number, value: string]
}

/** Nothing before it is ready. */
const answerOf = <A>(what: string): Promise<A | undefined> =>
  fetch(`http://127.0.0.1:${ITS}/api/v1/${what}`).then((response) => response.json()).then(
    (answer) => (answer as { readonly data: A }).data,
    () => undefined
  )
const until = <A>(what: string, isEnough: (answer: A) => boolean) =>
  Effect.gen(function*() {
    let answer: A | undefined
    yield* waitFor(what, () => {
      void answerOf<A>(what).then((found) => found !== undefined && isEnough(found) && (answer = found))
      return answer !== undefined
    })
    return answer as A
  })

/** Which metric and labels, in a form to compare. */
const keyOf = (name: string, labels: Iterable<readonly [string, string]>): string =>
  JSON.stringify([name, ...[...labels].map(([label, value]) => [label, label === "le" ? Number(value) : value]).sort()])

describeWith({ root: true, programs: ["prometheus", "promtool", "ip"] }, "Prometheus", () => {
  beforeAll(enterPrivateNetworkNamespace)

  it.scopedLive(
    "takes every metric with its type, labels and value, and has nothing to find fault with",
    () =>
      Effect.gen(function*() {
        const folder = yield* Effect.acquireRelease(
          Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "fz-prometheus-"))),
          (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
        )
        const [peer = assert.fail("no peer")] = tunnelStatus().peers
        const status = Effect.sync(() => tunnelStatus({ peers: [peer, { ...peer, peer: ODD }] }))
        const metrics = yield* MetricsExport.pipe(
          Effect.provide(MetricsExportHost.layer({})),
          Effect.provide(
            Layer.succeed(ClientConfig, settings({ metricsAddress: { _tag: "Tcp", host: "127.0.0.1", port: OURS } }))
          )
        )
        yield* Effect.provide(metrics.run({ status }), Logger.remove(Logger.defaultLogger))
        fs.writeFileSync(path.join(folder, "prometheus.yml"), configuration)
        const server = yield* daemon([
          findProgram("prometheus") ?? "",
          `--config.file=${folder}/prometheus.yml`,
          `--storage.tsdb.path=${folder}/data`,
          `--web.listen-address=127.0.0.1:${ITS}`
        ])
        const job = encodeURIComponent(`{job="client"}`)
        const { result } = yield* until<{ readonly result: ReadonlyArray<Series> }>(
          `query?query=${job}`,
          ({ result }) => result.length > 50
        ).pipe(Effect.tapErrorCause(() => Effect.sync(() => console.error(server.output().slice(-2000)))))
        const text = yield* Effect.promise(() => fetch(`http://127.0.0.1:${OURS}/metrics`).then((it) => it.text()))
        const families = parseExposition(text)

        const understood = new Map(
          result.map(({ metric: { __name__: name = "", instance: _, job: __, ...labels }, value }) =>
            [keyOf(name, Object.entries(labels)), Number(value[1])] as const
          ).filter(([key]) => !/^\["(up|scrape_)/.test(key))
        )
        const shown = new Map(
          [...families.values()].flatMap(({ labels }) =>
            labels.map(({ labels, name, value }) => [keyOf(name, labels), value] as const)
          )
        )
        assert.sameMembers([...understood.keys()], [...shown.keys()])
        assert.isTrue([...shown.keys()].some((key) => key.includes(JSON.stringify(ODD))))
        for (const [key, value] of shown) {
          // Those of this process go on meanwhile, but for when it began.
          if (/^\["(process_(cpu|resident)|firezone_event_loop)/.test(key)) continue
          assert.strictEqual(understood.get(key), value, key)
        }
        assert.strictEqual(Number(result.find(({ metric }) => metric["__name__"] === "up")?.value[1]), 1)

        const told = yield* Effect.promise(() =>
          answerOf<ReadonlyArray<{ readonly metric: string; readonly type: string; readonly help: string }>>(
            "targets/metadata?limit=1000"
          )
        )
        assert.sameDeepMembers(
          (told ?? []).map(({ help, metric, type }) => ({ help, name: metric, type })),
          [...families.values()].map(({ help, name, type }) => ({ help, name, type }))
        )

        const lint = spawnSync(findProgram("promtool") ?? "", ["check", "metrics"], { input: text, encoding: "utf8" })
        assert.deepStrictEqual({ said: `${lint.stdout}${lint.stderr}`, code: lint.status }, { said: "", code: 0 })
      }),
    30_000
  )
})
