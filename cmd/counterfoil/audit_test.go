package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/audit"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/load"
)

// audited runs counterfoil audit as cron does.
func audited(t *testing.T, p *harness.Parts, args ...string) (code int, report auditJSON) {
	t.Helper()
	var out, errs bytes.Buffer
	began := time.Now()
	code = run(t.Context(), &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, environ: p.Settings()}, append([]string{"audit", "--json"}, args...))
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out.String(), errs.String())
	}
	t.Logf("audit %v took %s", args, time.Since(began).Round(time.Millisecond))
	return code, report
}

// proven runs an audit that must find nothing, and returns how much each check compared.
func proven(t *testing.T, p *harness.Parts, args ...string) map[string]int64 {
	t.Helper()
	code, report := audited(t, p, args...)
	if code != 0 || !report.Proven {
		t.Errorf("audit %v of a good world: exit code %d, %s", args, code, describe(report.Findings))
	}
	return compared(report.Report)
}

func compared(r *audit.Report) map[string]int64 {
	n := map[string]int64{}
	for _, c := range r.Checks {
		n[c.Name] = c.Compared
	}
	return n
}

func describe(findings []audit.Finding) string {
	var lines []string
	for _, f := range findings {
		lines = append(lines, fmt.Sprintf("%s %s: %s", f.Check, strings.TrimSpace(f.Table+" "+f.At()), f.Problem))
	}
	return strings.Join(lines, "\n")
}

// lies says where a record lies, as findings do.
func lies(rec *kgo.Record) string {
	return fmt.Sprintf("%s/%d@%d", rec.Topic, rec.Partition, rec.Offset)
}

// place is the condition on a table that names a record.
func place(rec *kgo.Record) string {
	return fmt.Sprintf("topic = '%s' AND partition = %d AND offset = %d", rec.Topic, rec.Partition, rec.Offset)
}

// marker is the place of a marker between two records of an item topic, where no item lies.
func marker(c *harness.Cluster) *kgo.Record {
	records := c.ReadTopics(schemas.KindOwnership)
	for i := 1; i < len(records); i++ {
		if a, b := records[i-1], records[i]; a.Partition == b.Partition && b.Offset > a.Offset+1 {
			return &kgo.Record{Topic: a.Topic, Partition: a.Partition, Offset: a.Offset + 1}
		}
	}
	panic("no topic without markers is written in transactions")
}

// lost moves a group's committed offset past a record that is produced while no copy of the process runs, and returns where the record lies.
func lost(t *testing.T, c *harness.Cluster, group string, records ...*kgo.Record) []string {
	t.Helper()
	adm := kadm.NewClient(c.Client())
	c.Produce(records...)
	var at []string
	for _, rec := range records {
		harness.Eventually(t, 20*time.Second, func() string { // until the group has forgotten its static member
			done, err := adm.CommitOffsets(t.Context(), group, kadm.OffsetsFromRecords(*rec))
			if err == nil {
				err = done.Error()
			}
			if err != nil {
				return err.Error()
			}
			return ""
		})
		at = append(at, lies(rec))
	}
	return at
}

// trickle goes on sending, changes of few keys by either door, until stop is called.
func trickle(t *testing.T, c *harness.Cluster, client *harness.Client) (stop func()) {
	t.Helper()
	change := schemas.Ownership{UserName: new("User"), ProductSKU: new("SKU")}
	value, quit := c.Encode(schemas.KindOwnership, &change), make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for n := int32(0); ; n++ {
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
			}
			// To any partition, most of them wrong ones.
			rec := &kgo.Record{Topic: schemas.KindOwnership, Partition: n % 4, Value: value, Headers: []kgo.RecordHeader{schemas.TenantHeader(load.Tenant)}}
			if err := c.Client().ProduceSync(t.Context(), rec).FirstErr(); err != nil {
				t.Error(err)
			}
			client := client
			if n%2 == 0 {
				client = client.Keyed(fmt.Sprint("trickle-", n/4)) // every request twice
			}
			if answer, err := client.HelloID(t.Context(), []map[string]any{{"UserName": "User", "ProductSKU": fmt.Sprint("SKU-", n/4)}}); err != nil || answer.Verdict() != harness.Accepted {
				t.Errorf("%v %v", answer, err)
			}
		}
	})
	stop = sync.OnceFunc(func() { close(quit); sender.Wait() })
	t.Cleanup(stop)
	return stop
}

func TestAudit(t *testing.T) {
	c := harness.StartCluster(t, harness.Copies(1, 1, 1))
	client := load.Prepare(t, &c.Parts, c.Ingest[0].URL, load.Tenant)
	l := load.Start(t, &c.Parts, "audit", 7, 2, client)
	// What nobody can read, on topics of every role.
	tenant := []kgo.RecordHeader{schemas.TenantHeader(load.Tenant)}
	junk := []*kgo.Record{
		{Topic: schemas.KindOwnership, Value: []byte("no Avro"), Headers: tenant},
		{Topic: schemas.KindSales, Value: []byte("no tenant")},
		{Topic: schemas.KindReferrals, Headers: append(tenant, kgo.RecordHeader{Key: schemas.HeaderIndex, Value: []byte("first")})},
		{Topic: schemas.KindTransactions, Headers: tenant}, // no value
		{Topic: schemas.ProcessedTopic(schemas.KindOwnership), Value: []byte("no outcome")},
		{Topic: schemas.DeadLetters, Value: []byte("no letter"), Headers: tenant},
		{Topic: schemas.Calls, Key: []byte(load.Tenant + "/x"), Value: []byte("no call"), Headers: tenant},
		{Topic: schemas.Accounts, Key: []byte("no key"), Value: []byte{0}},
		{Topic: schemas.Requests, Value: []byte("no request"), Headers: tenant},
	}
	c.Produce(junk...)
	harness.Eventually(t, time.Minute, func() string {
		if n := c.SQL("SELECT count() < 40 FROM batches"); n == "1" {
			return "fewer than 40 batches have arrived"
		}
		return ""
	})
	l.Stop()
	c.WaitDrained(time.Minute)
	stop := trickle(t, c, client)
	proven(t, &c.Parts) // nothing is at rest
	stop()
	c.WaitDrained(time.Minute)
	middle := time.Now()
	time.Sleep(10 * time.Millisecond)

	all := proven(t, &c.Parts)
	t.Logf("compared %v", all)
	for check, n := range all {
		if n < 5 {
			t.Errorf("check %s compared %d: the load has more", check, n)
		}
	}
	// One finished bare record of each kind and the account that the rest is about.
	p := func(table, more string) string {
		return c.SQL("SELECT concat('topic = ''', topic, ''' AND partition = ', toString(partition), ' AND offset = ', toString(offset)), '|', topic, '/', partition, '@', offset FROM " +
			table + " WHERE batch = '' AND epoch = 0 " + more + " ORDER BY offset LIMIT 1 FORMAT TSVRaw")
	}
	split := func(text string) (where, at string) {
		where, at, _ = strings.Cut(strings.ReplaceAll(text, "\t", ""), "|")
		return where, at
	}
	ownership, ownershipAt := split(p("ownership", "AND (user_key, sku_key, version) NOT IN (SELECT user_key, sku_key, max(version) FROM ownership GROUP BY ALL)")) // not what is so now
	transactions, transactionsAt := split(p("transactions", ""))
	unprocessed, unprocessedAt := split(p("unprocessed", ""))
	want := map[string]string{}
	now := func(check, table, at, problem string) {
		want[check+" "+strings.TrimSpace(table+" "+at)] = problem
	}

	t.Run("since and tenant", func(t *testing.T) {
		some := proven(t, &c.Parts, "--since", "1h", "--tenant", load.Tenant)
		nobodys := c.SQL("SELECT count() FROM dead_letters WHERE NOT has(header_key, '" + schemas.HeaderTenant + "') AND topic = 'dead_letters' AND source_topic != 'requests'") // the processors' letters
		if got := fmt.Sprint(all[audit.CheckItems] - some[audit.CheckItems]); got != nobodys || nobodys == "0" {
			t.Errorf("%s items are not of the only tenant, %s name no tenant", got, nobodys)
		}
		for check, n := range proven(t, &c.Parts, "--since", middle.Format(time.RFC3339Nano)) {
			if check != audit.CheckTables && check != audit.CheckOutcomes && check != audit.CheckCopies && n != 0 {
				t.Errorf("check %s compared %d that were accepted after everything", check, n)
			}
		}
		for check, n := range proven(t, &c.Parts, "--tenant", "nobody") {
			if n != 0 {
				t.Errorf("check %s compared %d of a tenant that does not exist", check, n)
			}
		}
	})

	// Rows: one deleted, one doubled, one that is somebody else's, one of a position that is still to come.
	mutate := func(sql string) { t.Helper(); c.SQL(sql + " SETTINGS mutations_sync = 2") }
	mutate("ALTER TABLE ownership DELETE WHERE " + ownership)
	now("rows", "ownership", ownershipAt, "the record has no row")
	c.SQL("INSERT INTO transactions SELECT * REPLACE (now64(3) + INTERVAL 1 HOUR AS write_by) FROM transactions WHERE " + transactions)
	now("rows", "transactions", transactionsAt, "the record has more than one row")
	mutate("ALTER TABLE unprocessed UPDATE id = '00' WHERE " + unprocessed)
	now("rows", "unprocessed", unprocessedAt, "the row is 00 of")
	c.SQL("INSERT INTO referrals (topic, epoch, partition, offset, write_by, tenant, id) VALUES ('referrals.processed', 0, 1, 1000000000, now64(3) + INTERVAL 1 HOUR, 'load', 'x')")
	now("rows", "referrals", "referrals.processed/1@1000000000", "the topic ends at offset")
	c.SQL("INSERT INTO referrals (topic, epoch, partition, offset, write_by, tenant, id) VALUES ('ownership.processed', 0, 1, 0, now64(3) + INTERVAL 1 HOUR, 'load', 'y')")
	now("rows", "referrals", "ownership.processed/1@0", "the table is not made from this topic")

	// Dead letters of the sink's own.
	c.SQL("INSERT INTO dead_letters SELECT * REPLACE (now64(3) + INTERVAL 1 HOUR AS write_by) FROM dead_letters WHERE " + place(junk[6]))
	now("rows", "dead_letters", lies(junk[6]), "the dead letter about this record has more than one row")
	mutate("ALTER TABLE dead_letters DELETE WHERE (" + place(junk[4]) + ") OR (" + place(junk[7]) + ")")
	now("rows", "dead_letters", lies(junk[4]), "the record cannot be read and is no dead letter")
	now("versions", "dead_letters", lies(junk[7]), "the record cannot be read and is no dead letter")

	// An account that is gone from its table.
	id := c.SQL("SELECT id FROM accounts_state WHERE tenant = 'load' ORDER BY version LIMIT 1")
	version := c.SQL("SELECT version FROM accounts_state WHERE id = '" + id + "'")
	mutate("ALTER TABLE accounts_state DELETE WHERE id = '" + id + "'")
	now("versions", "accounts_state", "accounts/0@"+version, "the record has not arrived")

	// What somebody owns, and a fact in another order than by id.
	mutate("ALTER TABLE ownership_state DELETE WHERE (user_key, sku_key) IN (SELECT user_key, sku_key FROM ownership_current WHERE tenant = 'load' LIMIT 1)")
	now("copies", "ownership_state", "ownership_state", "ownership_state has 0 rows that count, and by ownership it must have 1")
	line := c.SQL("SELECT id FROM invoice_lines WHERE tenant = 'load' LIMIT 1")
	mutate("ALTER TABLE invoice_lines_by_customer_state DELETE WHERE id = '" + line + "'")
	now("copies", "invoice_lines_by_customer_state", "invoice_lines_by_customer_state", "invoice_lines_by_customer_state has 0 rows that count, and by invoice_lines_state it must have 1")

	// An outcome too many, a header without its items, one item in two records.
	source := c.SQL("SELECT concat(toString(source_partition), ' ', toString(source_offset), ' ', source_topic) FROM unprocessed WHERE source_offset >= 0 AND source_topic = 'sales' LIMIT 1")
	outcome := schemas.Unprocessed{Outcome: schemas.Outcome{Tenant: load.Tenant, ID: schemas.NewBatchKey(), Attempt: 1, AcceptedAt: middle.UTC(), JudgedAt: middle.UTC()}, Kind: schemas.KindSales, Format: schemas.FormatAvro}
	if _, err := fmt.Sscan(source, &outcome.SourcePartition, &outcome.SourceOffset, &outcome.SourceTopic); err != nil {
		t.Fatalf("%q: %v", source, err)
	}
	c.Produce(&kgo.Record{Topic: schemas.UnprocessedTopic(schemas.KindSales), Value: c.Encode(schemas.UnprocessedTopic(schemas.KindSales), &outcome)})
	now("items", "", fmt.Sprintf("sales/%d@%d", outcome.SourcePartition, outcome.SourceOffset), "attempt 1 at the item was settled 2 times: an outcome at sales.")
	header := &kgo.Record{Topic: schemas.Batches, Value: c.Encode(schemas.Batches, &schemas.BatchHeader{
		Tenant: load.Tenant, Key: schemas.NewBatchKey(), Kind: schemas.KindTransactions, Items: 2, AcceptedAt: middle.UTC()})}
	c.Produce(header)
	now("batches", "batches", fmt.Sprintf("batches/0@%d", header.Offset), fmt.Sprintf("batch %d announces 2 items, and 0 have an outcome", header.Offset+1))
	twice := (&schemas.Envelope{Tenant: load.Tenant, Batch: schemas.NewBatchKey(), Reply: 2}).Headers(nil)
	value := c.Encode(schemas.KindTransactions, &schemas.Transaction{})
	for range 2 {
		c.Produce(&kgo.Record{Topic: schemas.KindTransactions, Value: value, Headers: twice})
	}

	// An item and a request that were never read.
	c.WaitDrained(time.Minute)
	doubled := c.SQL("SELECT min(offset) FROM transactions WHERE id = '" + schemas.ItemID(load.Tenant, string(twice[1].Value), 0) + "'")
	now("outcomes", "", "transactions.processed/2@"+doubled, "attempt 1 at the item has several outcomes, at transactions.processed/2@")
	c.Process[0].Interrupt()
	unread := lost(t, c, schemas.GroupUpserts, &kgo.Record{Topic: schemas.KindOwnership, Partition: 3, Headers: tenant, Value: c.Encode(schemas.KindOwnership, &schemas.Ownership{})})
	now("items", "", unread[0], "attempt 1 at the item has no outcome")
	other := &kgo.Record{Topic: schemas.KindOwnership, Partition: 2, Headers: tenant, Value: value}
	unread = lost(t, c, schemas.GroupUpserts, other)
	now("items", "", unread[0], "the item is "+schemas.BareItemID(other.Topic, 0, 2, other.Offset)+` of "load", attempt 1; an outcome at ownership.unprocessed/0@`)
	outcome.SourceTopic, outcome.SourcePartition, outcome.SourceOffset, outcome.ID = other.Topic, 2, other.Offset, schemas.NewBatchKey()
	c.Produce(&kgo.Record{Topic: schemas.UnprocessedTopic(other.Topic), Value: c.Encode(schemas.UnprocessedTopic(other.Topic), &outcome)})
	gap := marker(c)
	outcome.SourceTopic, outcome.SourcePartition, outcome.SourceOffset, outcome.ID = gap.Topic, gap.Partition, gap.Offset, schemas.NewBatchKey()
	c.Produce(&kgo.Record{Topic: schemas.UnprocessedTopic(gap.Topic), Value: c.Encode(schemas.UnprocessedTopic(gap.Topic), &outcome)})
	now("items", "", lies(gap), "there is an outcome at "+gap.Topic)
	hash := sha256.Sum256(nil)
	passage := schemas.Passage{Topic: schemas.Batches, Route: "POST /v1/calls", Key: "lost", BodyHash: hash[:]}
	unread = lost(t, c, schemas.GroupRequests, &kgo.Record{Topic: schemas.Requests, Partition: 1, Value: []byte{},
		Headers: passage.Headers((&schemas.Envelope{Tenant: load.Tenant, Batch: schemas.NewBatchKey(), Reply: 0}).Headers(nil))})
	now("requests", "", unread[0], "the request has no answer")
	c.Process[0].Restart()

	check := func(t *testing.T, findings []audit.Finding) {
		t.Helper()
		left := maps.Clone(want)
		for i := range findings {
			f := &findings[i]
			key := f.Check + " " + strings.TrimSpace(f.Table+" "+f.At())
			if problem, ok := left[key]; !ok || !strings.HasPrefix(f.Problem, problem) {
				t.Errorf("found %s: %s", key, f.Problem)
			}
			if f.Do == "" {
				t.Errorf("%s does not say what to do", key)
			}
			delete(left, key)
		}
		for _, key := range slices.Sorted(maps.Keys(left)) {
			t.Errorf("not found: %s: %s", key, left[key])
		}
	}
	t.Run("differences", func(t *testing.T) {
		code, report := audited(t, &c.Parts)
		if code != exitFound || report.Proven {
			t.Errorf("exit code %d, proven: %t", code, report.Proven)
		}
		check(t, report.Findings)
	})
	t.Run("in small runs", func(t *testing.T) {
		report, err := runAudit(t.Context(), &app{stderr: &bytes.Buffer{}, environ: c.Settings()}, audit.Options{Stuck: time.Minute, Most: 100, Width: 7})
		if err != nil {
			t.Fatal(err)
		}
		check(t, report.Findings)
	})
	t.Run("more than are named", func(t *testing.T) {
		var out, errs bytes.Buffer
		code := run(t.Context(), &app{stdout: &out, stderr: &errs, environ: c.Settings()}, []string{"audit", "--most", "1"})
		if code != exitFound || !strings.Contains(out.String(), "more (--most") || !strings.Contains(out.String(), "Not proven: everything that was accepted before") {
			t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
		}
	})
	t.Run("a group that does not move", func(t *testing.T) {
		c.Sink[0].Kill()
		// On a topic that only the sink's group reads: another might stand still for so short a time as well.
		c.Produce(&kgo.Record{Topic: schemas.Calls, Key: []byte(load.Tenant + "/y"), Value: []byte("junk"), Headers: tenant})
		var out, errs bytes.Buffer
		code := run(t.Context(), &app{stdout: &out, stderr: &errs, environ: c.Settings()}, []string{"audit", "--stuck", "500ms"})
		if code != 1 || out.Len() > 0 || !strings.Contains(errs.String(), "group counterfoil-sink has not moved for 500ms") {
			t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
		}
	})
}

func TestAuditArguments(t *testing.T) {
	for _, test := range []struct{ args, says string }{
		{"--since yesterday", `--since is "yesterday"`},
		{"--since -3h", `--since is "-3h"`},
		{"--since 2999-01-01", `--since is "2999-01-01"`},
		{"--tenant a/b", "without slashes"},
		{"--most 0", "--most is 0"},
		{"--stuck 0s", "--stuck is 0s"},
		{"everything", `no argument "everything"`},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), &app{stdout: &out, stderr: &errs}, append([]string{"audit"}, strings.Fields(test.args)...))
		if code != 2 || !strings.Contains(errs.String(), test.says) {
			t.Errorf("audit %s: exit code %d, %s", test.args, code, errs.String())
		}
	}
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"":                          "0001-01-01T00:00:00Z",
		"90m":                       "2026-03-02T10:30:00Z",
		"2026-03-01":                "2026-03-01T00:00:00Z",
		"2026-03-01T23:00:00+01:00": "2026-03-01T22:00:00Z",
	} {
		got, err := parseMoment("--since", text, now)
		if err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
}

// Nobody must take the audit for a comparison of every column.
func TestAuditSaysWhatItDoesNotCompare(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(t.Context(), &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}, []string{"audit", "--help"})
	for _, says := range []string{"compares the identity", "columns say is not compared"} {
		if code != 0 || !strings.Contains(out.String(), says) {
			t.Errorf("code %d, without %q: %s", code, says, &out)
		}
	}
}
