package clickhouse

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/test/stack"
)

// Tests of what a cluster of two shards does otherwise than one server. The suites of test/e2e and test/faults run on one, too.

func TestAnalystsOfAClusterSeeTheirTenantOnly(t *testing.T) {
	var locals []string
	for _, name := range AnalystTables() {
		locals = append(locals, name+"_local")
	}
	sum := sha256.Sum256([]byte("secret"))
	server := stack.ShardedWith(t, embedded.Analyst{
		Name: "alice", PasswordSHA256: hex.EncodeToString(sum[:]), Tenant: "acme", Reader: AnalystDatabase("cf", "alice"), Database: "cf", Tables: locals,
	})
	conn, err := Open(t.Context(), Config{Hosts: []string{server.Addr}, Database: "cf", User: "default", Cluster: server.Cluster})
	must(t, err)
	defer conn.Close()
	for range 2 { // the second time over what the first has made
		_, err = conn.Migrate(t.Context(), false)
		must(t, err)
	}
	exec := func(node int, sql string) {
		t.Helper()
		must(t, conn.nodes[node].Exec(t.Context(), sql))
	}
	for i := range conn.nodes {
		for _, table := range AnalystTables() {
			columns, values := "tenant", ""
			if !strings.HasSuffix(table, "_state") {
				columns, values = "tenant, write_by", ", '2100-01-01'" // of a log
			}
			exec(i, "INSERT INTO cf."+table+"_local ("+columns+") VALUES ('acme'"+values+"), ('other'"+values+")")
		}
		exec(i, fmt.Sprintf(`INSERT INTO cf.order_lines_by_customer_state_local (tenant, version, id, customer, product, quantity, ordered_on) VALUES
			('acme', 1, 'a%[1]d', 7, 'ours', 2, today()), ('other', 1, 'b%[1]d', 7, 'theirs', 3, today())`, i))
		exec(i, fmt.Sprintf("INSERT INTO cf.ownership_state_local (tenant, user_key, quantity, version) VALUES ('acme', 'u%[1]d', 1, 1), ('other', 'v%[1]d', 1, 1)", i))
	}
	for i, node := range server.Nodes {
		ask := func(sql string) (string, error) { return node.QueryAs(t, "alice", "secret", sql, nil) }
		for _, name := range AnalystViews() {
			if name == buyingReport {
				continue // takes parameters
			}
			want := node.Exec(t, "SELECT countIf(tenant = 'acme'), 0 FROM cf."+name)
			if got, err := ask("SELECT count(), countIf(tenant != 'acme') FROM " + name); err != nil || got != want {
				t.Errorf("server %d: alice sees of %s %q (rows, of others), %v; want %q", i, name, got, err, want)
			}
			if _, err := ask("SELECT count() FROM " + name + " WHERE throwIf(tenant != 'acme', 'told') = 0 SETTINGS short_circuit_function_evaluation = 'disable'"); err != nil {
				t.Errorf("server %d: %s: %v", i, name, err)
			}
		}
		for sql, want := range map[string]string{
			"SELECT count() FROM batches": "2", "SELECT count() FROM ownership_current": "2", "SELECT sum(quantity) FROM order_lines WHERE customer = 7": "4",
			"SELECT code, quantity FROM buying_report(tenant = 'acme', customer = 7, based_on = 'O', months_back = 1, weeks_until_available = 0, today = today())":     "ours\t4",
			"SELECT count() FROM buying_report(tenant = 'other', customer = 7, based_on = 'O', months_back = 1, weeks_until_available = 0, today = today())":           "0",
			"SELECT count() FROM ownership WHERE tenant GLOBAL IN (SELECT tenant FROM accounts)":                                                                       "2",
			"SELECT count() FROM ownership AS a GLOBAL JOIN (SELECT DISTINCT tenant FROM sales) AS b USING tenant":                                                     "2",
			"SELECT count() FROM ownership WHERE 'other' IN (SELECT tenant FROM ownership_local)":                                                                      "0",
			"SELECT count() FROM ownership AS a JOIN (SELECT tenant FROM ownership_local) AS b ON b.tenant = 'other' SETTINGS prefer_localhost_replica = 0":            "0",
			"SELECT count() FROM ownership_state SETTINGS additional_table_filters = {'cf.ownership_state_local': '1'}, distributed_product_mode = 'allow'":            "4",
			"SELECT count() FROM (SELECT throwIf(tenant != 'acme') AS x FROM ownership) WHERE x = 0 SETTINGS query_plan_enable_optimizations = 0, max_threads = 1":     "2",
			"SELECT count() FROM accounts WHERE throwIf(tenant != 'acme') = 0 SETTINGS apply_row_policy_after_final = 1, optimize_move_to_prewhere_if_final = 1":       "2",
			"SELECT count() FROM accounts WHERE throwIf(tenant != 'acme') = 0 SETTINGS enable_analyzer = 0, optimize_move_to_prewhere = 0, prefer_localhost_replica=0": "2",
		} {
			if got, err := ask(sql); err != nil || got != want {
				t.Errorf("server %d: %s: %q, %v; want %q", i, sql, got, err, want)
			}
		}
		// What a server sends to another may name any table.
		for _, sql := range []string{
			"SELECT count() FROM ownership AS a JOIN (SELECT * FROM cf.ownership_local) AS b ON 1 = 1",
			"SELECT count() FROM ownership AS a, (SELECT * FROM cf.ownership_local) AS b",
			"SELECT count() FROM ownership WHERE 'other' IN (SELECT tenant FROM cf.ownership_local)",
			"SELECT count() FROM ownership WHERE 'other' IN (SELECT tenant FROM mergeTreeIndex('cf', 'ownership_local'))",
			"SELECT count() FROM ownership WHERE (SELECT count() FROM cf.ownership) > 2",
			"SELECT count() FROM cf.ownership",
			"SELECT count() FROM cf.ownership_local",
			"SELECT count() FROM mergeTreeIndex('cf', 'ownership_local')",
			"SELECT count() FROM mergeTreeIndex('cf_analyst_alice', 'ownership_local')",
			"SELECT count() FROM clusterAllReplicas('shards', cf.ownership_local)",
			"SELECT count() FROM cluster('shards', cf.ownership_local)",
			"SELECT count() FROM remote('" + server.Nodes[1-i].Addr + "', cf.ownership_local)",
			"INSERT INTO ownership (tenant) VALUES ('acme')",
		} {
			for _, mode := range []string{"deny", "allow"} {
				sql := strings.Replace(sql, "INSERT INTO ownership (tenant)", "INSERT INTO ownership (tenant) SETTINGS async_insert = 0", 1)
				if !strings.HasPrefix(sql, "INSERT") {
					sql += " SETTINGS prefer_localhost_replica = 0, distributed_product_mode = '" + mode + "'"
				}
				if got, err := ask(sql); err == nil {
					t.Errorf("server %d: alice may ask %s: %q", i, sql, got)
				}
			}
		}
	}
	// Both servers ask each other as default, as far as one can see.
	if err := conn.CreateAnalyst(t.Context(), "bob", strings.Repeat("0", 64), "acme"); err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("create an analyst on a cluster that may have no secret: %v", err)
	}
}

// A server that is away holds no role up but migrate, and gets what it missed from the next one, as does a server that came back empty.
func TestMigrateAfterAServerWasAway(t *testing.T) {
	server := stack.Sharded(t)
	ctx := t.Context()
	cfg := configOf(t, server)
	cfg.Hosts = []string{server.Nodes[0].Addr, server.Nodes[1].Addr}
	conn, err := Open(ctx, cfg)
	must(t, err)
	defer conn.Close()
	_, err = conn.Migrate(ctx, false)
	must(t, err)
	start := GroupStart{Topic: "sales", Group: "a group of the test"}
	must(t, conn.RecordGroupStart(ctx, start))

	for i, node := range server.Nodes {
		node.Stop(t)
		if err := conn.Migrated(ctx); err != nil {
			t.Errorf("a role starts while %s is away: %v", node.Addr, err)
		}
		if starts, err := conn.GroupStarts(ctx); err != nil || !slices.Contains(starts, start) {
			t.Errorf("while %s is away the group starts are %v, %v", node.Addr, starts, err)
		}
		if _, err := conn.Migrate(ctx, false); err == nil || !strings.Contains(err.Error(), conn.nodes[i].addr) {
			t.Errorf("migrate while %s is away: %v", conn.nodes[i].addr, err)
		}
		node.Start(t)
	}

	must(t, conn.nodes[1].Exec(ctx, "DROP DATABASE "+cfg.Database+" SYNC"))
	if err := conn.Migrated(ctx); err == nil || !strings.Contains(err.Error(), "counterfoil migrate") {
		t.Errorf("with a server that came back empty: %v", err)
	}
	steps, err := conn.Migrate(ctx, false)
	must(t, err)
	all, err := Migrations()
	must(t, err)
	if len(steps) != len(all) || slices.ContainsFunc(steps, func(s Step) bool { return s.Node != conn.nodes[1].addr }) {
		t.Errorf("migrate with a server that came back empty did %v", steps)
	}
	var rows uint64
	must(t, conn.nodes[1].QueryRow(ctx, "SELECT count() FROM "+conn.table("group_starts")+" WHERE topic = ? AND epoch = 0 AND group = ?", start.Topic, start.Group).Scan(&rows))
	if rows != 1 {
		t.Errorf("the server that came back empty has %d rows of the group's start", rows)
	}
	if steps, err = conn.Migrate(ctx, false); err != nil || len(steps) > 0 {
		t.Errorf("again: %v, %v", steps, err)
	}
	// Two servers that are as they should be, as doctor sees them.
	states, err := conn.Inspect(ctx, time.Now)
	must(t, err)
	for _, state := range states {
		for _, table := range state.Tables {
			if table.Missing || table.Log && !table.InTime || !table.Synced || table.PartitionKey != "" {
				t.Errorf("%s: %+v", state.Addr, table)
			}
		}
	}
}
