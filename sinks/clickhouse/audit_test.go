package clickhouse

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

// A copy that lost rows, or has others, differs from the table that it was made of, key by key; one that the sink filled does not, whatever moved
// and went.
func TestCopyDifferences(t *testing.T) {
	defer func(n int) { copiedAtOnce = n }(copiedAtOnce)
	copiedAtOnce = 4 // several shares
	r := newRig(t)
	r.start(nil)
	at := func(n int) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(n)) }
	on := at(0).UTC().Truncate(24 * time.Hour)
	var records []*kgo.Record
	n := 0
	add := func(topic, id string, v any) {
		n++
		records = append(records, r.fact(topic, int32(n%partitions), at(n), id, v))
	}
	for i := range 10 {
		id := fmt.Sprint("L", i)
		for _, customer := range []int64{1, 2 + int64(i%2)} { // each moves once
			add(schemas.OrderLines, id, &schemas.OrderLine{ID: id, Customer: customer, Product: "P", Quantity: decimal.New(int64(i), 0), OrderedOn: on})
			add(schemas.InvoiceLines, id, &schemas.InvoiceLine{ID: id, Customer: customer, Product: "P", Quantity: decimal.New(int64(i), 0), InvoicedOn: on})
			add(schemas.Calls, id, &schemas.Call{ID: id, StartedAt: at(i), CallerNumber: new(fmt.Sprint("441234567", customer, i)), MHID: new(fmt.Sprint("M", customer)), Campaign: new("c"), Tags: []string{}})
		}
	}
	add(schemas.Calls, "bare", &schemas.Call{ID: "bare", StartedAt: at(0), Tags: []string{}}) // in neither table
	for _, topic := range []string{schemas.OrderLines, schemas.InvoiceLines, schemas.Calls} {
		add(topic, "L9", nil)
	}
	r.produce(append(records, r.ownerships(0, 10)...)...)
	for _, topic := range []string{schemas.OrderLines, schemas.InvoiceLines, schemas.Calls, "ownership.processed"} {
		r.committed(topic)
	}
	settled := 0
	settle := func(context.Context) error { settled++; return nil }
	look := func(of Copy, tenant string) []CopyDifference {
		t.Helper()
		compared, got, err := r.conn.CopyDifferences(t.Context(), of, tenant, 100, settle)
		must(t, err)
		if rows := r.query("SELECT count() FROM {db}." + of.Of); tenant == "" && fmt.Sprint(compared) != rows {
			t.Errorf("%s: compared %d rows of %s", of.Table, compared, rows)
		}
		return got
	}
	if got := len(Copies()); got != 5 {
		t.Errorf("%d copies", got)
	}
	for _, of := range Copies() {
		t.Run(of.Table, func(t *testing.T) {
			id, deleted, changed := "L3", "L9", "L4"
			if of.Of == ownershipTable.name {
				id, deleted, changed = "user3/app-01", "user9/app-01", "user4/app-01"
			}
			if got := look(of, ""); len(got) > 0 || settled > 0 {
				t.Errorf("as it was filled: %+v", got)
			}
			key := "id"
			if of.Of == ownershipTable.name {
				key = "concat(user_key, '/', sku_key)"
			}
			exec := func(sql string) {
				t.Helper()
				must(t, r.conn.any.Exec(t.Context(), sql+" SETTINGS mutations_sync = 1"))
			}
			exec("ALTER TABLE " + r.conn.local(of.Table) + " DELETE WHERE " + key + " = '" + id + "'")
			// A row that says something else, or one of what is gone.
			change := "UPDATE quantity = 17 WHERE is_deleted = 0 AND " + key + " = '" + changed + "'"
			foreign := "(tenant, version, id, customer) VALUES ('acme', 9000000000000000000, '" + deleted + "', 1)"
			switch of.Table {
			case "ownership_state":
				foreign = "(tenant, version, user_key, sku_key) VALUES ('acme', 9000000000000000000, 'user9', 'app-01')"
			case "calls_by_number_state":
				change = "DELETE WHERE id = '" + changed + "'"
				foreign = "(tenant, version, id, number_key) VALUES ('acme', 9000000000000000000, '" + deleted + "', '44')"
			case "calls_by_mhid_state":
				change = "DELETE WHERE id = '" + changed + "'"
				foreign = "(tenant, version, id, mhid_key) VALUES ('acme', 9000000000000000000, '" + deleted + "', 'M')"
			}
			exec("ALTER TABLE " + r.conn.local(of.Table) + " " + change)
			must(t, r.conn.any.Exec(t.Context(), "INSERT INTO "+r.conn.table(of.Table)+" "+foreign))
			got := map[string]bool{}
			for _, d := range look(of, "acme") {
				got[d.ID] = true
				if d.Tenant != "acme" || d.Version == 0 && of.Of != ownershipTable.name {
					t.Errorf("%+v", d)
				}
				if d.ID == id && (d.Rows != 0 || d.Want != 1) {
					t.Errorf("what is not there: %+v", d)
				}
			}
			if diff := cmp.Diff(map[string]bool{id: true, deleted: true, changed: true}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if settled == 0 {
				t.Error("nobody waited for the sink")
			}
			settled = 0
			if got := look(of, "other"); len(got) > 0 || settled > 0 {
				t.Errorf("of another tenant: %+v", got)
			}
		})
	}
	// What has come at the second look was on its way.
	come := func(context.Context) error {
		for _, table := range []string{ownershipTable.name, ownershipStateTable.name} {
			must(t, r.conn.any.Exec(t.Context(), "TRUNCATE TABLE "+r.conn.local(table)))
		}
		return nil
	}
	if _, got, err := r.conn.CopyDifferences(t.Context(), Copies()[0], "", 100, come); err != nil || len(got) > 0 {
		t.Errorf("what was on its way: %+v, %v", got, err)
	}
}

// On a cluster a copy and its table are each on all servers.
func TestCopyDifferencesOfACluster(t *testing.T) {
	server := stack.ShardedWith(t)
	conn, err := Open(t.Context(), Config{Hosts: []string{server.Addr}, Database: "cf", User: "default", Cluster: server.Cluster})
	must(t, err)
	defer conn.Close()
	_, err = conn.Migrate(t.Context(), false)
	must(t, err)
	for i := range conn.nodes {
		for _, table := range []string{"order_lines_state_local", "order_lines_by_customer_state_local"}[:2-i] { // the second server lacks it
			must(t, conn.nodes[i].Exec(t.Context(), fmt.Sprintf("INSERT INTO cf.%s (tenant, version, id, customer) VALUES ('acme', 1, 'L%d', 7)", table, i)))
		}
	}
	for _, of := range Copies() {
		var want []CopyDifference
		if of.Table == "order_lines_by_customer_state" {
			want = []CopyDifference{{Tenant: "acme", ID: "L1", Version: 1, Want: 1}}
		}
		_, got, err := conn.CopyDifferences(t.Context(), of, "", 100, func(context.Context) error { return nil })
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", of.Table, diff)
		}
	}
}
