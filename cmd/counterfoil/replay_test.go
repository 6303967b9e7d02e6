package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/replay"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
)

type row = map[string]any

// replayed runs counterfoil replay --json.
func replayed(t *testing.T, p *harness.Parts, args ...string) (code int, report replay.Report) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, environ: p.Settings()}, append([]string{"replay", "--json"}, args...))
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("replay %v: exit code %d, %v: %s%s", args, code, err, out.String(), errs.String())
	}
	return code, report
}

// Programs read the report: its members have one spelling, those of reasons as well.
func TestReasonsOfAReplayAsJSON(t *testing.T) {
	value := "ACR9"
	got, err := json.Marshal(replay.Report{Items: []*replay.Item{{
		Kind: schemas.KindCustomerEvents, Tenant: shopTenant, Fate: replay.FateUnprocessed,
		Was: []schemas.Reason{{Code: schemas.CodeNotFound, Field: "account", Value: &value, Message: "There is none."}},
		Now: []schemas.Reason{{Code: schemas.CodeInternalError, Message: "Ours."}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	want := `"was":[{"code":"not_found","field":"account","value":"ACR9","message":"There is none."}],` +
		`"fate":"unprocessed","now":[{"code":"internal_error","field":"","message":"Ours."}]`
	if !strings.Contains(string(got), want) {
		t.Errorf("%s\nhas not %s", got, want)
	}
}

// fates counts items by fate and reason, as "processed" or "unprocessed not_found".
func fates(r replay.Report) map[string]int {
	n := map[string]int{}
	for _, it := range r.Items {
		n[strings.TrimSpace(it.Fate+" "+codesOf(it.Now))]++
	}
	return n
}

// expect runs a replay and compares its exit code and what it made of its items.
func expect(t *testing.T, p *harness.Parts, wantCode int, want map[string]int, args ...string) replay.Report {
	t.Helper()
	code, report := replayed(t, p, args...)
	if diff := cmp.Diff(want, fates(report)); code != wantCode || diff != "" {
		t.Errorf("replay %v: exit code %d, want %d; (-want +got):\n%s%+v", args, code, wantCode, diff, report.Items)
	}
	return report
}

// inOrder makes a good world be one still: nothing is lost or doubled by what replays did.
func inOrder(t *testing.T, c *harness.Cluster) {
	t.Helper()
	c.WaitDrained(time.Minute)
	checker.Prove(t, &c.Parts, nil)
	proven(t, &c.Parts)
}

func (s shop) purchases(t *testing.T, account string, n int) {
	t.Helper()
	var rows []row
	for i := range n {
		rows = append(rows, row{
			"request_unique_identifier": fmt.Sprint(account, "-", i), "accounts_receivable_identifier": row{"number": account}, "performed_by_unit_identifier": row{"name": "Unit"},
			"performed_on": "2016-06-22T15:00:00", "reference_number": "R",
			"products_set": []row{{"product_identifier": row{"code": "LAMP"}, "net_amount": 50, "vat_amount": 10, "total_amount": 60}},
		})
	}
	answer, err := s.client.CRM(t.Context(), "purchases", "purchase_customer_events_set", rows)
	if err != nil || answer.Verdict() != harness.Accepted || len(answer.CRM.Data.Unprocessed) != n {
		t.Fatalf("%v %v", answer, err)
	}
}

func (s shop) account(number string) {
	s.Produce(harness.References(&s.Parts, schemas.Accounts, shopTenant, &schemas.Account{ID: harness.HexID(), Number: number})...)
}

// sale posts one by Mediahawk.
func (s shop) sale(t *testing.T, id, value, mhid string) {
	t.Helper()
	answer, err := s.client.Mediahawk(t.Context(), 1, []row{{"id": id, "date": "2023-02-28", "value": value, "mhid": mhid, "clis": []string{}}})
	if err != nil || answer.Verdict() != harness.Accepted {
		t.Fatalf("%v %v", answer, err)
	}
}

func (s shop) call(id, mhid string) {
	s.Produce(harness.References(&s.Parts, schemas.Calls, shopTenant, &schemas.Call{ID: id, StartedAt: time.Date(2023, 2, 28, 12, 0, 0, 0, time.UTC), MHID: &mhid, Tags: []string{}})...)
}

const shopTenant = "shop"

// shop is a tenant with all that a purchase needs but the account.
type shop struct {
	*harness.Cluster
	client *harness.Client
}

func openShop(t *testing.T, opts ...harness.Option) shop {
	t.Helper()
	c := harness.StartCluster(t, append([]harness.Option{harness.Copies(1, 1, 1), harness.Env("REPLY_WAIT=25s")}, opts...)...)
	c.Produce(slices.Concat(
		harness.References(&c.Parts, schemas.Units, shopTenant, &schemas.Unit{ID: harness.HexID(), Name: "Unit"}),
		harness.References(&c.Parts, schemas.Products, shopTenant, &schemas.Product{ID: harness.HexID(), Code: "LAMP"}))...)
	client := harness.NewClient(c.Ingest[0].URL, c.CreateKey(shopTenant))
	client.LogIn(t)
	return shop{c, client}
}

func TestReplayOfItems(t *testing.T) {
	s := openShop(t)
	s.purchases(t, "ACR-1", 3)
	s.purchases(t, "ACR-2", 2)
	s.Produce(bareEvent(s, "ACR-1"))
	count := func(sql, want string) {
		t.Helper()
		if got := strings.TrimSpace(s.SQL(sql)); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}

	expect(t, &s.Parts, 3, map[string]int{"unprocessed not_found": 6}, "--reason", "not_found", "--dry-run")
	expect(t, &s.Parts, 3, map[string]int{"unprocessed not_found": 1}, "--kind", "web")
	var out, errs bytes.Buffer
	code := run(t.Context(), &app{stdout: &out, stderr: &errs, environ: s.Settings()}, []string{"replay", "--all", "--limit", "5"})
	if code != 1 || !strings.Contains(errs.String(), "more than 5 items are selected, and nothing was done") {
		t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
	}
	s.account("ACR-1")
	dry := expect(t, &s.Parts, 3, map[string]int{"processed": 4, "unprocessed not_found": 2}, "--tenant", shopTenant, "--dry-run")
	s.WaitDrained(time.Minute)
	count("SELECT count() FROM unprocessed_open", "6")
	real := expect(t, &s.Parts, 3, map[string]int{"processed": 4, "unprocessed not_found": 2}, "--tenant", shopTenant)
	for i := range real.Items {
		if dry.Items[i].ID != real.Items[i].ID || dry.Items[i].Fate != real.Items[i].Fate || dry.Items[i].Attempt != real.Items[i].Attempt {
			t.Errorf("item %d: rehearsed %+v, then %+v", i, dry.Items[i], real.Items[i])
		}
	}
	count("SELECT count(), uniqExact(id) FROM unprocessed_open", "2\t2")
	count("SELECT count(), uniqExact(id), max(attempt) FROM customer_events", "4\t4\t3") // the bare one had two before
	count("SELECT sum(processed), sum(unprocessed), sum(pending) FROM batch_status", "3\t2\t0")
	count("SELECT count() FROM customer_events WHERE ref = 'ACR-1-0' AND batch != ''", "1")

	// Twice is once.
	expect(t, &s.Parts, 3, map[string]int{"unprocessed not_found": 2}, "--all")
	count("SELECT count(), uniqExact(id) FROM customer_events", "4\t4")
	s.account("ACR-2")
	expect(t, &s.Parts, 0, map[string]int{"published": 1}, "--ref", "ACR-2-1", "--wait=false")
	s.WaitDrained(time.Minute)
	expect(t, &s.Parts, 0, map[string]int{"processed": 1}, "--batch", "3")
	expect(t, &s.Parts, 0, map[string]int{}, "--all")
	count("SELECT count() FROM unprocessed_open", "0")
	answer, err := s.client.Get(t.Context(), "/v1/batches/3")
	if err != nil || !bytes.Contains(answer.Body, []byte(`"processed":2,"unprocessed":0`)) {
		t.Errorf("%v %s", err, answer.Body)
	}

	// A row that does not fit the schema has no record.
	if _, err := s.client.V1(t.Context(), "customer-events", []row{{"kind": 7}}); err != nil {
		t.Fatal(err)
	}
	report := expect(t, &s.Parts, 3, map[string]int{"not_replayable invalid": 1}, "--tenant", shopTenant)
	if report.Items[0].Kind != schemas.KindCustomerEvents || report.Items[0].Attempt != 2 {
		t.Errorf("%+v", report.Items[0])
	}
	code = run(t.Context(), &app{stdout: &out, stderr: &errs, environ: s.Settings()}, []string{"replay", "--all"})
	if code != exitOpen || !strings.Contains(out.String(), "cannot be replayed") || !strings.Contains(out.String(), "0 of 1 items are processed now.") ||
		!strings.Contains(errs.String(), "not processed: 1 of 1 items") {
		t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
	}
	inOrder(t, s.Cluster)
}

func bareEvent(s shop, account string) *kgo.Record {
	return &kgo.Record{
		Topic: schemas.KindCustomerEvents, Partition: 1, Headers: []kgo.RecordHeader{schemas.TenantHeader(shopTenant)},
		Value: s.Encode(schemas.KindCustomerEvents, &schemas.CustomerEvent{
			Kind: schemas.EventWeb, Account: &schemas.AccountIdentifier{Number: &account}, Website: new("www.example.org"),
			EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: new("Unit")}, PerformedOn: new(time.Date(2016, 6, 22, 15, 0, 0, 0, time.UTC))},
		}),
	}
}

func TestReplayOfSales(t *testing.T) {
	s := openShop(t)
	s.sale(t, "S-1", "1", "early")
	s.sale(t, "S-2", "1", "early")
	s.WaitDrained(time.Minute)
	s.call("late", "late")
	s.sale(t, "S-2", "2", "late")
	s.call("early", "early") // after the first two
	expect(t, &s.Parts, 0, map[string]int{"processed": 2}, "--kind", "sales", "--reason", "no_match", "--dry-run")
	expect(t, &s.Parts, 0, map[string]int{"processed": 1}, "--key", "S-1")
	expect(t, &s.Parts, 0, map[string]int{"processed": 1}, "--kind", "sales", "--reason", "no_match")
	expect(t, &s.Parts, 0, map[string]int{}, "--kind", "sales")
	want := "S-1\t1\tearly\nS-2\t2\tlate"
	if got := strings.TrimSpace(s.SQL("SELECT sale_key, value, call_id FROM sales_current ORDER BY sale_key")); got != want {
		t.Errorf("sales are %q, want %q", got, want)
	}
	inOrder(t, s.Cluster)
}

// A sale without an id is judged wherever it lies, its replays in the partition of its identity. Each attempt stands in place of the one before,
// however far the two partitions have grown.
func TestReplayOfSalesWithoutID(t *testing.T) {
	s := openShop(t)
	const sales = 20
	var records []*kgo.Record
	for range sales {
		records = append(records, &kgo.Record{Topic: schemas.KindSales, Partition: 1, Headers: []kgo.RecordHeader{schemas.TenantHeader(shopTenant)},
			Value: s.Encode(schemas.KindSales, &schemas.Sale{Date: new(time.Date(2023, 2, 28, 0, 0, 0, 0, time.UTC)), MHID: new("late"), Lookback: new(int32(1)), CLIs: &[]string{}})})
	}
	s.Produce(records...)
	s.WaitDrained(time.Minute)
	expect(t, &s.Parts, exitOpen, map[string]int{"unprocessed no_match": sales}, "--kind", "sales")
	s.call("late", "late")
	expect(t, &s.Parts, 0, map[string]int{"processed": sales}, "--kind", "sales")
	if got, want := strings.TrimSpace(s.SQL("SELECT count(), countIf(matched), min(attempt) FROM sales_current")), "20\t20\t3"; got != want {
		t.Errorf("sales, matched ones, attempts: %q, want %q", got, want)
	}
	inOrder(t, s.Cluster)
}

// schema registers a schema of a topic with another text, so that it gets an id of its own.
func schema(t *testing.T, p *harness.Parts, of *schemas.Schema, n int) int32 {
	t.Helper()
	text := strings.Replace(of.Text(), `"doc":"`, fmt.Sprintf(`"doc":"Text %d. `, n), 1)
	created, err := p.Registry.Client().CreateSchema(t.Context(), fmt.Sprint("test-", n, "-value"), sr.Schema{Schema: text, Type: sr.TypeAvro})
	if err != nil {
		t.Fatal(err)
	}
	return int32(created.ID)
}

func TestReplayOfDeadLetters(t *testing.T) {
	s := openShop(t, harness.Env("SCHEMA_CONFIRM_AFTER=200ms", "SCHEMA_UNKNOWN_FOR=200ms"))
	s.account("ACR-1")
	next := schema(t, &s.Parts, schemas.CallSchema, 0) + 1
	// written as if with a schema of a later id.
	unknown := func(rec *kgo.Record, id int32) *kgo.Record {
		rec.Value = slices.Clone(rec.Value)
		binary.BigEndian.PutUint32(rec.Value[1:], uint32(id))
		return rec
	}
	change := func(sku string, quantity int64, id int32) *kgo.Record {
		user := "Ann"
		it := &schemas.Ownership{UserName: &user, ProductSKU: &sku, Quantity: &quantity, Clear: []string{}}
		rec := &kgo.Record{Topic: schemas.KindOwnership, Value: s.Encode(schemas.KindOwnership, it), Headers: []kgo.RecordHeader{schemas.TenantHeader(shopTenant)}}
		if id == 0 {
			rec.Partition = schemas.Partition(upserts.Key(shopTenant, it), 4)
			return rec
		}
		rec.Partition = schemas.Partition(upserts.Key(shopTenant, it), 4) ^ 1 // a producer with another partitioner
		return unknown(rec, id)
	}
	account := func(id, number string) *kgo.Record {
		return harness.References(&s.Parts, schemas.Accounts, shopTenant, &schemas.Account{ID: id, Number: number})[0]
	}
	event := unknown(bareEvent(s, "ACR-1"), next)
	s.Produce(event, change("kept", 5, next+1), change("gone", 5, next+1), change("alone", 5, next+1),
		unknown(account("a1", "ACR-7"), next+2), unknown(account("a2", "ACR-8"), next+2),
		&kgo.Record{Topic: schemas.KindSales, Value: []byte("junk"), Headers: []kgo.RecordHeader{schemas.TenantHeader(shopTenant)}},
		&kgo.Record{Topic: schemas.KindSales, Value: []byte("junk")})
	harness.Eventually(t, time.Minute, func() string {
		if n := strings.TrimSpace(s.SQL("SELECT count() FROM dead_letters")); n != "8" {
			return n + " dead letters"
		}
		return ""
	})
	expect(t, &s.Parts, 3, map[string]int{"not_replayable unknown_schema": 6}, "--dead-letters", "--reason", "unknown_schema", "--dry-run")
	// What came after them: ownership that was set, and one that is gone; an account of the same id.
	s.Produce(change("kept", 1, 0), change("gone", 1, 0), change("gone", 0, 0), account("a2", "ACR-9"))
	for n, of := range []*schemas.Schema{schemas.CustomerEventSchema, schemas.OwnershipSchema, schemas.AccountSchema} {
		if id := schema(t, &s.Parts, of, n+1); id != next+int32(n) {
			t.Fatalf("schema %d has id %d, want %d", n, id, next+int32(n))
		}
	}
	time.Sleep(500 * time.Millisecond) // until it is no longer taken for unknown
	want := map[string]int{"processed": 3, "superseded superseded": 2}
	expect(t, &s.Parts, 3, want, "--dead-letters", "--reason", "unknown_schema", "--dry-run")
	report := expect(t, &s.Parts, 3, want, "--dead-letters", "--reason", "unknown_schema")
	for _, it := range report.Items {
		if id := schemas.BareItemID(event.Topic, 0, event.Partition, event.Offset); it.Kind == event.Topic && (it.ID != id || it.Attempt != 2) {
			t.Errorf("the event is %+v, want item %s", it, id)
		}
	}
	expect(t, &s.Parts, 3, map[string]int{"superseded superseded": 2}, "--dead-letters", "--reason", "unknown_schema")
	expect(t, &s.Parts, 3, map[string]int{"superseded superseded": 2, "not_replayable undecodable": 1, "not_replayable tenant_missing": 1}, "--dead-letters", "--all")
	for sql, want := range map[string]string{
		"SELECT count(), max(attempt) FROM customer_events":                     "1\t2",
		"SELECT sku_key, quantity FROM ownership_current ORDER BY sku_key":      "alone\t5\nkept\t1",
		"SELECT id, number FROM accounts WHERE number != 'ACR-1' ORDER BY id":   "a1\tACR-7\na2\tACR-9",
		"SELECT count() FROM unprocessed_open":                                  "0",
		"SELECT count() FROM ownership WHERE sku_key = 'alone' AND attempt = 2": "1",
		"SELECT count() FROM dead_letters WHERE reason_code = 'unknown_schema'": "6",
	} {
		if got := strings.TrimSpace(s.SQL(sql)); got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
	inOrder(t, s.Cluster)
}

// TestReplaysThatRaceOrDie: however many run at once and wherever one ends, each item is processed once.
func TestReplaysThatRaceOrDie(t *testing.T) {
	s := openShop(t)
	for i := range 3 {
		s.purchases(t, fmt.Sprint("ACR-", i), 300)
	}

	t.Run("racing", func(t *testing.T) {
		s.account("ACR-0")
		var group sync.WaitGroup
		codes := make([]int, 4)
		for i := range codes {
			group.Go(func() {
				var out, errs bytes.Buffer
				codes[i] = run(t.Context(), &app{stdout: &out, stderr: &errs, environ: s.Settings()}, []string{"replay", "--tenant", shopTenant, "--reason", "not_found"})
				if codes[i] == 1 && !strings.Contains(errs.String(), "another replay has begun since") {
					t.Errorf("replay %d: %s%s", i, out.String(), errs.String())
				}
			})
		}
		group.Wait()
		if !slices.Contains(codes, exitOpen) {
			t.Errorf("exit codes %v: one of them should have ended", codes)
		}
		harness.Eventually(t, time.Minute, func() string {
			if n := strings.TrimSpace(s.SQL("SELECT count() FROM customer_events")); n != "300" {
				return n + " are processed"
			}
			return ""
		})
	})

	t.Run("killed before judging", func(t *testing.T) {
		s.account("ACR-1")
		s.WaitDrained(time.Minute)
		s.Process[0].Kill()
		before := len(s.ReadTopics(schemas.KindCustomerEvents))
		ctx, kill := context.WithCancel(t.Context())
		defer kill()
		cmd := exec.CommandContext(ctx, harness.Binary(t), "replay", "--tenant", shopTenant, "--reason", "not_found")
		cmd.Env = s.Settings()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, time.Minute, func() string {
			// All of them, so that it reads nothing from ClickHouse any more: the embedded engine does not survive a reset connection.
			if n := len(s.ReadTopics(schemas.KindCustomerEvents)) - before; n < 600 {
				return fmt.Sprint(n, " records are published")
			}
			return ""
		})
		kill()
		_ = cmd.Wait()
		s.Process[0].Restart()
		_, report := replayed(t, &s.Parts, "--tenant", shopTenant, "--reason", "not_found")
		if n := report.Count(replay.FateUnprocessed); n != 300 {
			t.Errorf("%d are unprocessed still: %v", n, fates(report))
		}
		if n := strings.TrimSpace(s.SQL("SELECT count(), uniqExact(id) FROM customer_events")); n != "600\t600" {
			t.Errorf("processed: %q", n)
		}
	})

	t.Run("killed within a transaction", func(t *testing.T) {
		s.account("ACR-2")
		_, dry := replayed(t, &s.Parts, "--tenant", shopTenant, "--dry-run")
		it := dry.Items[0]
		client, err := kgo.NewClient(append(s.Kafka, kgo.TransactionalID("replay"), kgo.TransactionTimeout(3*time.Minute), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		env := schemas.Envelope{Tenant: it.Tenant, Batch: it.Batch, Index: it.Index, Reply: -1, Attempt: it.Attempt, First: &schemas.First{ID: it.ID}}
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: it.Kind, Value: []byte("half"), Headers: env.Headers(nil)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		client.CloseAllowingRebalance()
		expect(t, &s.Parts, 0, map[string]int{"processed": 300}, "--tenant", shopTenant)
	})
	s.WaitDrained(time.Minute)
	if got := s.SQL("SELECT count(), uniqExact(id) FROM customer_events"); got != "900\t900" {
		t.Errorf("processed: %q", got)
	}
	inOrder(t, s.Cluster)
}

func TestReplayArguments(t *testing.T) {
	for _, test := range []struct{ args, says string }{
		{"", "nothing restricts the selection"},
		{"--dry-run", "or say --all"},
		{"--all --tenant acme", "leave it out"},
		{"--reason notfound", `--reason "notfound"`},
		{"--reason not_found,", `choose among missing`},
		{"--reason unknown_schema", `--reason "unknown_schema"`},
		{"--dead-letters --reason not_found", `--reason "not_found"`},
		{"--kind sale", `--kind "sale"`},
		{"--tenant a/b", "without slashes"},
		{"--since yesterday", `--since is "yesterday"`},
		{"--since 1h --until 2h", "nothing lies between"},
		{"--item 12", "32 lower-case hex digits"},
		{"--batch -1", "--batch is -1"},
		{"--dead-letters --batch 3", "do not select dead letters"},
		{"--all --limit 0", "--limit is 0"},
		{"--all --stuck 0s", "--stuck is 0s"},
		{"--all --most -1", "--most is -1"},
		{"everything", `no argument "everything"`},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), &app{stdout: &out, stderr: &errs}, append([]string{"replay"}, strings.Fields(test.args)...))
		if code != 2 || !strings.Contains(errs.String(), test.says) {
			t.Errorf("replay %s: exit code %d, %s", test.args, code, errs.String())
		}
	}
}
