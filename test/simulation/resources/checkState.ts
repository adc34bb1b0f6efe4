/** What a client and the gateways show of themselves, beside what the models know (tunnel spec 20.3). */
import { assert } from "@effect/vitest"
import type { Client, Organisation } from "./Organisation.ts"
import { isTunnel } from "./rules.ts"

/** `isSettling`: nothing was sent since the change, so that nothing has been asked for again. */
export const checkState = (
  organisation: Organisation,
  { configs, isOnline, list, machine, model }: Client,
  isSettling: boolean
): void => {
  const { now } = organisation.world
  if (!model.hasInterface) return
  const config = configs.at(-1)
  assert.deepStrictEqual(
    config && [...config.routes.map(({ address, bits }) => `${address}/${bits}`)].toSorted(),
    model.routes,
    "C1: routes"
  )
  const shown = [...config?.dnsBySentinel ?? []].map(([sentinel, upstream]) => [
    String(sentinel),
    upstream._tag === "Do53" ? String(upstream.address) : upstream.url
  ])
  assert.deepStrictEqual(shown, model.names.mapping as never, "D6: upstreams")
  assert.strictEqual(config?.searchDomain, model.names.settings.searchDomain, "D7: search domain")
  const texts = configs.map((each) =>
    JSON.stringify([
      each.routes.map(({ address, bits }) => `${address}/${bits}`).toSorted(),
      [...each.dnsBySentinel],
      each.searchDomain
    ])
  )
  assert.isTrue(texts.every((text, i) => i === 0 || text !== texts[i - 1]), "C2: told of a change that is none")
  const places = [...model.resources.values()].filter(({ type }) => !type.endsWith("pool")).toSorted((a, b) =>
    Number(b.type === "internet") - Number(a.type === "internet") ||
    (a.name < b.name ? -1 : a.name > b.name ? 1 : 0) ||
    (a.id < b.id ? -1 : 1)
  )
  assert.deepStrictEqual(
    list.map(({ address, id, name, sites, type }) => ({ address, id, name, type, sites: sites.map(({ id }) => id) })),
    places.map((each) => ({
      address: each.type === "cidr" ? each.network : each.type === "dns" ? each.pattern : "",
      id: each.id,
      name: each.name,
      type: each.type as "cidr",
      sites: "site" in each ? [each.site] : []
    })),
    "L1: the list"
  )
  for (const view of list) {
    const [site] = view.sites
    assert.include(model.statesOf(site?.id ?? "", now), view.status, `L2: ${view.id}`)
  }
  if (isOnline && !isSettling) {
    assert.deepStrictEqual([...model.owed], [], "refused by a gateway, and not asked for again")
  }
  const status = machine.core.status(now)
  const through = status.resources.flatMap(({ gateway, id }) => gateway === undefined ? [] : [`${id} ${gateway}`])
  const authorised = [...model.authorised].map(([id, gateway]) => `${id} ${gateway}`)
  assert.deepStrictEqual(through.toSorted(), authorised.toSorted(), "what is reached through which gateway")
  assert.strictEqual(status.internetResourceActive, model.hasInternet, "L5: the Internet")
  for (const { model: gateway, machine } of organisation.gateways) {
    const granted = machine.core.status(now).clients.find(({ id }) => id === model.id)?.resources ?? []
    assert.deepStrictEqual(granted.toSorted(), gateway.grants(model.id), `what ${gateway.id} has granted`)
  }
  assert.isTrue(places.every((each) => each.type !== "cidr" || !isTunnel(each.network.split("/")[0] ?? "")))
}
