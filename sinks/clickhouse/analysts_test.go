package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/cmd/embedded"
)

// analystRig is a migrated ClickHouse of its own, whose configuration has an analyst of the tenant acme.
type analystRig struct {
	conn *Conn
	url  string
}

func newAnalystRig(t *testing.T) *analystRig {
	t.Helper()
	sum := sha256.Sum256([]byte("secret"))
	engine, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0",
		Analysts: []embedded.Analyst{{
			Name: "alice", PasswordSHA256: hex.EncodeToString(sum[:]), Tenant: "acme",
			Reader: AnalystDatabase("cf", "alice"), Database: "cf", Tables: AnalystTables(), Views: AnalystViews(),
		}}}, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(engine.Close)
	conn, err := Open(t.Context(), Config{Hosts: []string{engine.ClickHouseAddr()}, Database: "cf", User: "default"})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	// Twice at once: neither run may stand in the other's way.
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := conn.Migrate(context.Background(), false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, conn.Migrated(t.Context()))
	return &analystRig{conn: conn, url: "http://" + engine.ClickHouseHTTPAddr() + "/?wait_end_of_query=1"}
}

func (r *analystRig) exec(t *testing.T, sql string) {
	t.Helper()
	must(t, r.conn.any.Exec(t.Context(), sql))
}

// ask runs a query as the analyst.
func (r *analystRig) ask(t *testing.T, sql string) (answer string, ok bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url, strings.NewReader(sql))
	must(t, err)
	req.SetBasicAuth("alice", "secret")
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return strings.TrimSpace(string(body)), res.StatusCode == http.StatusOK
}

func TestMigrateMakesTheViewsOfAnalysts(t *testing.T) {
	r := newAnalystRig(t)
	for _, table := range AnalystTables() {
		columns, values := "tenant", ""
		if !strings.HasSuffix(table, "_state") {
			columns, values = "tenant, write_by", ", '2100-01-01'" // of a log
		}
		r.exec(t, "INSERT INTO cf."+table+" ("+columns+") VALUES ('acme'"+values+"), ('other'"+values+")")
	}
	for _, name := range AnalystViews() {
		if name == buyingReport {
			continue // takes parameters
		}
		if got, ok := r.ask(t, "SELECT countIf(tenant != 'acme') FROM "+name); !ok || got != "0" {
			t.Errorf("%s: %s", name, got)
		}
		if got, ok := r.ask(t, "SELECT count() FROM "+name+" WHERE throwIf(tenant != 'acme', 'told') = 0"); !ok {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, name := range []string{"ownership", "customer_events", "accounts", "dead_letters", "outcomes"} {
		if got, ok := r.ask(t, "SELECT count() > 0 FROM "+name); !ok || got != "1" {
			t.Errorf("%s: the tenant's rows are not seen: %s", name, got)
		}
	}
	for _, table := range AnalystTables() {
		for _, sql := range []string{"SELECT tenant FROM cf." + table, "SELECT tenant FROM mergeTreeIndex('cf', '" + table + "')", "SELECT tenant FROM merge('cf', '^" + table + "$')"} {
			if got, ok := r.ask(t, sql); ok {
				t.Errorf("%s: %q", sql, got)
			}
		}
	}
	r.exec(t, `INSERT INTO cf.order_lines_by_customer_state (tenant, version, id, customer, product, quantity, ordered_on) VALUES
		('acme', 1, 'a', 7, 'ours', 2, today()), ('other', 1, 'b', 7, 'theirs', 3, today())`)
	for tenant, want := range map[string]string{"acme": "ours\t2", "other": ""} {
		sql := "SELECT code, quantity FROM buying_report(tenant = '" + tenant + "', customer = 7, based_on = 'O', months_back = 1, weeks_until_available = 0, today = today())"
		if got, ok := r.ask(t, sql); !ok || got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
		if got, ok := r.ask(t, sql+" WHERE throwIf(quantity = 3, 'told') = 0 SETTINGS short_circuit_function_evaluation = 'disable'"); !ok {
			t.Errorf("%s: %s", sql, got)
		}
	}
	// A column that a later version adds is there after its migrate.
	r.exec(t, "ALTER TABLE cf.ownership ADD COLUMN added Int64 DEFAULT 7")
	if got, ok := r.ask(t, "SELECT added FROM ownership"); ok {
		t.Errorf("before: %s", got)
	}
	steps, err := r.conn.Migrate(t.Context(), false)
	must(t, err)
	if diff := cmp.Diff(0, len(steps)); diff != "" {
		t.Errorf("making the views again is a step: %v", steps)
	}
	if got, ok := r.ask(t, "SELECT added FROM ownership"); !ok || got != "7" {
		t.Errorf("after: %s", got)
	}
}

func TestCreateAnalystRefuses(t *testing.T) {
	r := newAnalystRig(t)
	for _, name := range []string{"", "a b", "1a", "a;", AnalystDatabase("cf", "x"), "default"} {
		if err := r.conn.CreateAnalyst(t.Context(), name, "00", "acme"); err == nil || errors.Is(err, ErrUsersInConfiguration) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := r.conn.CreateAnalyst(t.Context(), "bob", strings.Repeat("0", 64), "acme"); !errors.Is(err, ErrUsersInConfiguration) {
		t.Error(err)
	}
}

// The engine here makes no users; what a server is told is at least its language.
func TestCreateAnalystSpeaksSQL(t *testing.T) {
	r := newAnalystRig(t)
	statements, err := r.conn.analystSQL(&r.conn.nodes[0], "bob", strings.Repeat("0", 64), `o'neill & sons\`)
	must(t, err)
	if len(statements) < 4*len(AnalystTables()) {
		t.Errorf("%d statements for %d tables", len(statements), len(AnalystTables()))
	}
	for _, s := range statements {
		var read string
		if err := r.conn.any.QueryRow(t.Context(), "SELECT formatQuerySingleLine(?)", s).Scan(&read); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}
