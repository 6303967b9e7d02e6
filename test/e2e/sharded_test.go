package e2e

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/load"
	"github.com/counterfoil/counterfoil/test/stack"
)

// On a ClickHouse cluster of two shards every promise holds, sales find calls of both, facts move to other customers, and every view says the same
// on either server. With TEST_CLICKHOUSE=sharded all tests of this package run there.
func TestShardedClickHouse(t *testing.T) {
	if stack.GivenClickHouse() || stack.InContainers() {
		t.Skip("the servers of the cluster are embedded ones")
	}
	c := harness.StartCluster(t, harness.Sharded(), harness.Copies(1, 1, 2))
	client := load.Prepare(t, &c.Parts, c.Ingest[0].URL, load.Tenant)
	l := load.Start(t, &c.Parts, "sharded", 1, 4, client)
	for sent := 0; sent < 1000 && !t.Failed(); sent = l.Sent() {
		time.Sleep(100 * time.Millisecond)
	}
	proved(t, &c.Parts, l.Stop())

	ask := func(node *stack.CH, sql string) string {
		t.Helper()
		got, err := node.QueryAs(t, node.User, node.Password, sql, url.Values{"database": {c.Database}})
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return got
	}
	first, second := c.CH.Nodes[0], c.CH.Nodes[1]
	for _, table := range []string{"ownership", "customer_events", "unprocessed", "calls_state", "calls_by_number_state", "order_lines_by_customer_state"} {
		var rows [2]string
		for i, node := range c.CH.Nodes {
			if rows[i] = ask(node, "SELECT count() FROM "+table+"_local"); rows[i] == "0" {
				t.Errorf("shard %d has nothing of %s", i+1, table)
			}
		}
		t.Logf("%s: %s rows", table, strings.Join(rows[:], " and "))
	}
	views := strings.Split(ask(first, "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View' AND name != 'buying_report'"), "\n")
	if len(views) < 20 {
		t.Errorf("views: %v", views)
	}
	for _, view := range views {
		sql := "SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM " + view
		if a, b := ask(first, sql), ask(second, sql); a != b {
			t.Errorf("%s is %s on one server and %s on the other", view, a, b)
		}
	}
	lines := 0
	for customer := 1; customer <= 5; customer++ {
		want := ask(first, fmt.Sprintf("SELECT product, sum(quantity) AS q FROM order_lines WHERE tenant = '%s' AND customer = %d GROUP BY product HAVING q > 0 ORDER BY product", load.Tenant, customer))
		lines += len(strings.Fields(want))
		for _, node := range c.CH.Nodes {
			got := ask(node, fmt.Sprintf("SELECT product, quantity FROM buying_report(tenant = '%s', customer = %d, based_on = 'O', months_back = 1200, weeks_until_available = 0, today = toDate32('2024-12-31')) ORDER BY product", load.Tenant, customer))
			if got != want {
				t.Errorf("customer %d bought\n%s\nand the report says\n%s", customer, want, got)
			}
		}
	}
	if lines == 0 {
		t.Error("nobody bought anything")
	}
	if did := c.Counterfoil("", "migrate"); did != "" {
		t.Errorf("a second migrate did something: %s", did)
	}
	c.Counterfoil("", "audit")
}
