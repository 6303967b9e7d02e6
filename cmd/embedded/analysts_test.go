package embedded_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/google/go-cmp/cmp"
)

func analyst(name, tenant string) embedded.Analyst {
	sum := sha256.Sum256([]byte(name + "'s password"))
	return embedded.Analyst{
		Name: name, PasswordSHA256: hex.EncodeToString(sum[:]), Tenant: tenant,
		Database: "cf", Tables: []string{"sales"}, Views: []string{"plain", "invoker", "nested"},
	}
}

func TestAnalystsSeeTheirTenantOnly(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0",
		Analysts: []embedded.Analyst{analyst("alice", "acme")}}
	s := start(t, cfg)
	for _, sql := range []string{
		"CREATE DATABASE cf",
		"CREATE TABLE cf.sales (tenant String, n UInt8) ENGINE = MergeTree ORDER BY tenant",
		"INSERT INTO cf.sales VALUES ('acme', 1), ('acme', 2), ('o''neill & sons\\\\', 4)",
		"CREATE TABLE cf.secrets (tenant String) ENGINE = MergeTree ORDER BY tenant",
		"CREATE VIEW cf.plain AS SELECT * FROM cf.sales",
		"CREATE VIEW cf.invoker SQL SECURITY INVOKER AS SELECT tenant, sum(n) AS n FROM cf.sales GROUP BY tenant",
		"CREATE VIEW cf.nested AS SELECT * FROM cf.plain",
		"CREATE VIEW cf.definer DEFINER = default SQL SECURITY DEFINER AS SELECT * FROM cf.sales",
	} {
		if _, err := query(s, "default", "", sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	// SetAnalysts restarts the engine; the same list again does not.
	both := []embedded.Analyst{analyst("alice", "acme"), analyst("oscar", `o'neill & sons\`)}
	pid := s.PIDs()[embedded.ClickHouse]
	if err := s.SetAnalysts(t.Context(), both); err != nil {
		t.Fatal(err)
	}
	restarted := s.PIDs()[embedded.ClickHouse]
	if err := s.SetAnalysts(t.Context(), both); err != nil {
		t.Fatal(err)
	}
	if now := s.PIDs()[embedded.ClickHouse]; restarted == pid || now != restarted {
		t.Errorf("process %d, with another analyst %d, with no other %d", pid, restarted, now)
	}
	if diff := cmp.Diff(map[string]int64{"clickhouse": 0}, s.Restarts()); diff != "" {
		t.Error("a restart that was asked for is counted: ", diff)
	}

	sums := map[string]string{"alice": "3", "oscar": "4", "default": "7"}
	for user, want := range sums {
		password := user + "'s password"
		if user == "default" {
			password = ""
		}
		for _, from := range []string{"sales", "plain", "invoker", "nested"} {
			if got, err := query(s, user, password, "SELECT sum(n) FROM cf."+from); err != nil || got != want {
				t.Errorf("%s reads %s: %q, %v", user, from, got, err)
			}
		}
	}
	for _, sql := range []string{
		"SELECT * FROM cf.secrets",
		"SELECT * FROM cf.definer",
		"SELECT * FROM system.processes",
		"SELECT * FROM remote('127.0.0.1:9000', cf.sales)",
		"SELECT * FROM file('/etc/passwd', 'LineAsString')",
		"INSERT INTO cf.sales VALUES ('acme', 9)",
		"ALTER TABLE cf.sales DELETE WHERE 1",
		"DROP VIEW cf.plain",
		"CREATE TABLE cf.own (x UInt8) ENGINE = Memory",
		"CREATE VIEW cf.own AS SELECT 1",
	} {
		if got, err := query(s, "alice", "alice's password", sql); err == nil {
			t.Errorf("alice may run %s: %q", sql, got)
		}
	}
	if _, err := query(s, "alice", "guess", "SELECT 1"); err == nil {
		t.Error("alice comes in with another password")
	}
	if got, err := query(s, "alice", "alice's password", "SELECT 1 SETTINGS max_threads = 1"); err != nil || got != "1" {
		t.Errorf("alice may not set max_threads: %v", err)
	}
}

func TestWriteUsersRefuses(t *testing.T) {
	for name, change := range map[string]func(*embedded.Analyst){
		"a name that is no identifier": func(a *embedded.Analyst) { a.Name = "alice smith" },
		"the administrator's name":     func(a *embedded.Analyst) { a.Name = "default" },
		"a password in clear":          func(a *embedded.Analyst) { a.PasswordSHA256 = "secret" },
		"no tenant":                    func(a *embedded.Analyst) { a.Tenant = "" },
		"a table of another database":  func(a *embedded.Analyst) { a.Tables = []string{"system.users"} },
		"a view that is SQL":           func(a *embedded.Analyst) { a.Views = []string{"v TO alice; GRANT ALL"} },
	} {
		t.Run(name, func(t *testing.T) {
			a := analyst("alice", "acme")
			change(&a)
			if err := embedded.WriteUsers(&strings.Builder{}, []embedded.Analyst{a}); err == nil {
				t.Error("accepted")
			}
		})
	}
	twice := []embedded.Analyst{analyst("alice", "acme"), analyst("alice", "other")}
	if err := embedded.WriteUsers(&strings.Builder{}, twice); err == nil {
		t.Error("accepted two of one name")
	}
}
