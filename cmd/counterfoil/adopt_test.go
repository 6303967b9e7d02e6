package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/adopt"
	"github.com/counterfoil/counterfoil/processors"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/load"
	"github.com/counterfoil/counterfoil/test/stack"
)

// wreck is an installation with a load behind it, whose roles are stopped, and to which something happens.
type wreck struct {
	*harness.Cluster
	t    *testing.T
	adm  *kadm.Client
	sent []checker.Sent
}

// newWreck runs a load, the sink only at first, so that ClickHouse is behind and lacks outcomes of batches that it has, and kills the roles in the
// middle of it.
func newWreck(t *testing.T) *wreck {
	t.Helper()
	c := harness.StartCluster(t, harness.Copies(1, 1, 1))
	w := &wreck{Cluster: c, t: t, adm: kadm.NewClient(c.Client())}
	client := load.Prepare(t, &c.Parts, c.Ingest[0].URL, load.Tenant)
	l := load.Start(t, &c.Parts, "before", 11, 3, client)
	w.await("30 batches", func() bool { return c.SQL("SELECT count() >= 30 FROM batches") == "1" })
	c.Process[0].Pause()
	paused := time.Now().UnixMilli()
	w.await("batch without outcomes", func() bool {
		return c.SQL(fmt.Sprintf("SELECT sum(pending) > 0 FROM batch_status WHERE accepted_at > fromUnixTimestamp64Milli(%d)", paused)) == "1"
	})
	c.Sink[0].Interrupt()
	c.Process[0].Resume()
	sent := l.Sent()
	w.await("more requests", func() bool { return l.Sent() > sent+60 })
	c.Process[0].Kill() // with some of them judged
	c.Ingest[0].Kill()
	w.sent = l.Stop()
	w.awaitEmpty()
	w.await("ClickHouse", func() bool { // the embedded engine may end with a connection that is cut, and is started again
		_, err := c.SQLAs("default", "", "SELECT 1")
		return err == nil
	})
	return w
}

func (w *wreck) await(what string, f func() bool) {
	w.t.Helper()
	harness.Eventually(w.t, 3*time.Minute, func() string {
		if f() {
			return ""
		}
		return "no " + what
	})
}

// awaitEmpty waits until Kafka has forgotten the members that were killed.
func (w *wreck) awaitEmpty() {
	w.t.Helper()
	w.await("group without members", func() bool {
		described, err := w.adm.DescribeGroups(w.t.Context(), sortedGroups()...)
		for _, d := range described {
			if d.State != "Empty" && d.State != "Dead" {
				return false
			}
		}
		return err == nil
	})
}

func sortedGroups() []string {
	names := []string{schemas.GroupSink}
	for _, name := range processors.Names() {
		names = append(names, processors.Group(name))
	}
	return names
}

// counterfoil runs a subcommand.
func (w *wreck) counterfoil(args ...string) (code int, out, errs string) {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(w.t.Context(), &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, environ: w.Settings()}, args)
	return code, stdout.String(), stderr.String()
}

// refused checks that neither a role nor migrate runs, and that each names the command.
func (w *wreck) refused(command string) {
	w.t.Helper()
	for _, args := range [][]string{{"migrate"}, {"migrate", "--dry-run"}, {"process"}, {"sink"}, {"audit"}} {
		if code, out, errs := w.counterfoil(args...); code != 1 || out != "" || !strings.Contains(errs, command) {
			w.t.Errorf("%v: exit code %d, it should name %q:\n%s%s", args, code, command, out, errs)
		}
	}
	if code, out, errs := w.counterfoil("doctor"); code != 1 || !strings.Contains(out, command) {
		w.t.Errorf("doctor: exit code %d, it should name %q:\n%s%s", code, command, out, errs)
	}
}

// plan shows what adopt would do.
func (w *wreck) plan(args ...string) *adopt.Plan {
	w.t.Helper()
	code, out, errs := w.counterfoil(append([]string{"adopt", "--json"}, args...)...)
	var p adopt.Plan
	if err := json.Unmarshal([]byte(out), &p); err != nil || code != 0 {
		w.t.Fatalf("adopt %v: exit code %d, %v\n%s%s", args, code, err, out, errs)
	}
	return &p
}

// find looks with options that the command has no flags for.
func (w *wreck) find(opts adopt.Options) *adopt.Plan {
	w.t.Helper()
	cfg, err := loadConfig(w.Settings())
	if err != nil {
		w.t.Fatal(err)
	}
	in, err := reach(w.t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	defer in.close()
	p, err := in.adopt(w.t.Context(), opts, false, io.Discard, io.Discard)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// adopt takes over, and shows what it prints.
func (w *wreck) adopt(args ...string) {
	w.t.Helper()
	code, out, errs := w.counterfoil(append([]string{"adopt", "--yes"}, args...)...)
	if code != 0 {
		w.t.Fatalf("adopt --yes %v: exit code %d\n%s%s", args, code, out, errs)
	}
	w.t.Logf("adopt --yes %v:\n%s", args, out)
	if code, out, errs := w.counterfoil("adopt", "--offsets"); code != 0 || !strings.Contains(out, "nothing to take over") {
		w.t.Errorf("adopt after that: exit code %d\n%s%s", code, out, errs)
	}
}

// goOn starts the roles again, sends more, and lets it all be judged and written.
func (w *wreck) goOn(name string) time.Time {
	w.t.Helper()
	for _, c := range w.All() {
		c.Start()
	}
	for _, c := range w.All() {
		c.WaitReady()
	}
	began := time.Now()
	client := load.Prepare(w.t, &w.Parts, w.Ingest[0].URL, load.Tenant)
	l := load.Start(w.t, &w.Parts, name, 12, 3, client)
	w.await("60 requests", func() bool { return l.Sent() > 60 })
	w.sent = append(w.sent, l.Stop()...)
	w.WaitDrained(90 * time.Second)
	return began
}

// check asks the checker, which knows of one life of each topic only.
func (w *wreck) check() {
	w.t.Helper()
	checker.Prove(w.t, &w.Parts, w.sent)
}

// exact checks what must hold whatever lives topics had: no attempt with two outcomes, no number given twice.
func (w *wreck) exact() {
	w.t.Helper()
	if n := w.SQL("SELECT count() FROM (SELECT tenant, id, attempt FROM outcomes GROUP BY tenant, id, attempt HAVING count() > 1)"); n != "0" {
		w.t.Errorf("%s attempts have two outcomes", n)
	}
	for _, table := range []string{"batches", "customer_events", "referrals"} {
		if n := w.SQL("SELECT count() - uniqExact(number) FROM " + table); n != "0" {
			w.t.Errorf("%s numbers of %s are given twice", n, table)
		}
	}
}

func TestAdoptLostOffsets(t *testing.T) {
	w := newWreck(t)
	code, out, errs := w.counterfoil("adopt", "--offsets")
	if code != 0 || !strings.Contains(out, "nothing to take over") {
		t.Fatalf("adopt where nothing is amiss: exit code %d\n%s%s", code, out, errs)
	}
	for _, group := range sortedGroups() {
		if _, err := w.adm.DeleteGroup(t.Context(), group); err != nil {
			t.Fatal(err)
		}
	}
	w.refused("counterfoil adopt --offsets")
	if p := w.plan(); len(p.Lost) == 0 || len(p.Offsets) > 0 {
		t.Errorf("without --offsets: %+v", p)
	}
	p := w.plan("--offsets")
	found := 0
	for _, o := range p.Offsets {
		for _, at := range o.Partitions {
			if at.Found != nil {
				found++
			}
			if at.Committed != nil || at.To > at.End || at.Skipped != 0 {
				t.Errorf("%s %s: %+v", o.Group, o.Topic, at)
			}
		}
	}
	if found < 20 || len(p.Topics) > 0 {
		t.Errorf("%d partitions with something found: %+v", found, p)
	}
	// The broker may meanwhile end transactions that were open, whose markers lie at the ends.
	if diff := cmp.Diff(p, w.find(adopt.Options{Offsets: true, Window: 25}), cmpopts.IgnoreUnexported(adopt.Offset{}), cmpopts.IgnoreFields(adopt.Partition{}, "End")); diff != "" {
		t.Errorf("from a small window on requests (-large +small):\n%s", diff)
	}
	w.refused("counterfoil adopt --offsets") // looking changes nothing
	w.adopt("--offsets")
	w.goOn("after")
	w.exact()
	w.check()
	proven(t, &w.Parts)
}

func TestAdoptEmptyClickHouse(t *testing.T) {
	w := newWreck(t)
	before := w.SQL("SELECT count() FROM batches")
	w.CH.Exec(t, "DROP DATABASE "+w.Database+" SYNC")
	for range 2 { // migrate leaves tables behind
		if code, _, errs := w.counterfoil("migrate"); code != 1 || !strings.Contains(errs, "counterfoil adopt") {
			t.Fatalf("migrate: exit code %d\n%s", code, errs)
		}
	}
	p := w.plan()
	for _, topic := range p.Topics {
		if topic.State != adopt.StateUnknown || topic.Epoch != 0 || topic.Base != 0 {
			t.Errorf("%+v", topic)
		}
	}
	for _, o := range p.Offsets {
		if o.Group != schemas.GroupSink {
			t.Errorf("group %s would begin anew in %s", o.Group, o.Topic)
		}
	}
	if len(p.Topics) != len(schemas.Topics()) || len(p.Offsets) == 0 {
		t.Errorf("%d topics, %d offsets", len(p.Topics), len(p.Offsets))
	}
	w.adopt()
	w.goOn("after")
	if after := w.SQL("SELECT count() > " + before + " FROM batches"); after != "1" {
		t.Errorf("there were %s batches, and there are not more now", before)
	}
	w.exact()
	w.check()
	proven(t, &w.Parts)
}

// deleteTopics deletes topics and waits until they are gone.
func (w *wreck) deleteTopics(topics ...string) {
	w.t.Helper()
	deleted, err := w.adm.DeleteTopics(w.t.Context(), topics...)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.await("end of the topics", func() bool {
		details, err := w.adm.ListTopics(w.t.Context(), topics...)
		return err == nil && !slices.ContainsFunc(details.TopicsList(), func(d kadm.TopicPartitions) bool { return details[d.Topic].Err == nil })
	})
}

func TestAdoptTopicsThatAreGone(t *testing.T) {
	w := newWreck(t)
	highest := func(table string) int64 {
		var n int64
		fmt.Sscan(w.SQL("SELECT max(number) FROM "+table), &n)
		return n
	}
	batches, events := highest("batches"), highest("customer_events")
	w.deleteTopics(schemas.TopicNames()...)
	w.refused("counterfoil adopt")
	if details, err := w.adm.ListTopics(t.Context()); err != nil || details.Has(schemas.Batches) {
		t.Errorf("migrate refused, and created topics: %v, %v", err, details.Names())
	}
	p := w.plan()
	for _, topic := range p.Topics {
		if topic.State != adopt.StateMissing || topic.Epoch != 1 || len(topic.Means) == 0 {
			t.Errorf("%+v", topic)
		}
	}
	if len(p.Topics) != len(schemas.Topics()) || p.Pending == nil || p.Pending.Items == 0 {
		t.Errorf("%d topics, pending %+v", len(p.Topics), p.Pending)
	}
	w.adopt()
	w.Client().PurgeTopicsFromClient(schemas.TopicNames()...) // it knows their ids
	began := w.goOn("after")
	w.exact()
	if n := w.SQL(fmt.Sprintf("SELECT countIf(number > %d), min(number) FROM batches WHERE epoch = 1", batches)); strings.HasPrefix(n, "0\t") {
		t.Errorf("batches of the new epoch: %s", n)
	}
	if n := w.SQL(fmt.Sprintf("SELECT countIf(number <= %d), count() > 0 FROM customer_events WHERE epoch = 1", events)); n != "0\t1" {
		t.Errorf("events of the new epoch whose number may be taken, and whether there are events: %s", n)
	}
	all := proven(t, &w.Parts)
	since := proven(t, &w.Parts, "--since", began.Format(time.RFC3339Nano))
	t.Logf("audit compared %v, since then %v", all, since)
}

// screen is what a command prints while it runs.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestUpGoesOnWithoutAPartOfItsData: the everyday case, one of two folders was removed.
func TestUpGoesOnWithoutAPartOfItsData(t *testing.T) {
	if stack.OnApache() || stack.GivenKafka() {
		t.Skip("counterfoil up has its own Kafka")
	}
	harness.NeedClickHouse(t)
	dir := t.TempDir()
	addr, chHTTP := harness.FreeAddr(t), harness.FreeAddr(t)
	args := []string{"up", "--data", dir, "--http-addr", addr, "--kafka-addr", harness.FreeAddr(t), "--registry-addr", harness.FreeAddr(t),
		"--clickhouse-addr", harness.FreeAddr(t), "--clickhouse-http-addr", chHTTP}
	environ := append(os.Environ(), "SESSION_TIMEOUT=2s", "TRANSACTION_TIMEOUT=2s", "SINK_SESSION_TIMEOUT=2s", "SINK_LEASE=2s", "SINK_FLUSH_INTERVAL=300ms")
	sql := func(query string) string {
		answer, err := http.Post("http://"+chHTTP+"/?database=counterfoil", "text/plain", strings.NewReader(query))
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		out, err := io.ReadAll(answer.Body)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSuffix(string(out), "\n")
	}
	// up runs it until it is ready and use has come back, or until it ends by itself.
	up := func(use func(client *harness.Client), more ...string) (code int, out string) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var s screen
		ended := make(chan int)
		go func() {
			ended <- run(ctx, &app{stdin: strings.NewReader(""), stdout: &s, stderr: &s, environ: environ}, append(slices.Clone(args), more...))
		}()
		for {
			select {
			case code := <-ended:
				return code, s.String()
			case <-time.After(50 * time.Millisecond):
			}
			if _, key, ok := strings.Cut(s.String(), "Key of the tenant demo: "); ok && strings.Contains(s.String(), "Ctrl-C drains") {
				id, secret, _ := strings.Cut(strings.Fields(key)[0], ".")
				use(harness.NewClient("http://"+addr, harness.Key{Tenant: "demo", ID: id, Secret: secret}))
				stop()
				return <-ended, s.String()
			}
		}
	}
	// post changes something and waits until ClickHouse has so many rows.
	post := func(rows int) func(*harness.Client) {
		return func(client *harness.Client) {
			change := []map[string]any{{"UserName": "u", "ProductSKU": "s", "IncreaseQuantityBy": 1}}
			if answer, err := client.HelloID(t.Context(), change); err != nil || answer.Verdict() != harness.Accepted {
				t.Errorf("%v %v", answer, err)
			}
			harness.Eventually(t, time.Minute, func() string {
				if n := sql("SELECT count() FROM ownership"); n != fmt.Sprint(rows) {
					return n + " rows"
				}
				return ""
			})
		}
	}
	if code, out := up(post(1)); code != 0 {
		t.Fatalf("up ended with %d\n%s", code, out)
	}
	lose := func(part, says string, rows int) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
			t.Fatal(err)
		}
		code, out := up(func(*harness.Client) { t.Error("it runs") })
		if code != 1 || !strings.Contains(out, "counterfoil up --adopt, with the same flags") || !strings.Contains(out, says) {
			t.Fatalf("up without its %s ended with %d\n%s", part, code, out)
		}
		if code, out := up(post(rows), "--adopt"); code != 0 {
			t.Fatalf("up --adopt without its %s ended with %d\n%s", part, code, out)
		}
	}
	lose("kafka", "ownership.state: What everybody owns is forgotten", 2)
	var number string
	check := func(*harness.Client) {
		number = sql("SELECT max(number), max(epoch) FROM batches")
		if n := sql("SELECT quantity, version > bitShiftLeft(1, 48) FROM ownership_current WHERE user_key = 'u'"); n != "1\t1" {
			t.Errorf("quantity, version of the second life: %s", n)
		}
	}
	if code, out := up(check); code != 0 {
		t.Fatalf("up ended with %d\n%s", code, out)
	}
	lose("clickhouse", "records are written to ClickHouse again", 2)
	check = func(*harness.Client) {
		var was, is, epoch int64
		fmt.Sscan(number, &was, &epoch)
		fmt.Sscan(sql("SELECT max(number) FROM batches"), &is)
		if was < 1_000_000 || is <= was || is > was+10 { // markers lie between
			t.Errorf("the batch before was number %d, that after is %d", was, is)
		}
		if n := sql("SELECT quantity, version > bitShiftLeft(1, 48), (SELECT max(epoch) FROM batches) FROM ownership_current WHERE user_key = 'u'"); n != "2\t1\t1" {
			t.Errorf("quantity, version, epoch after ClickHouse was filled again: %s", n)
		}
	}
	if code, out := up(check); code != 0 {
		t.Fatalf("up ended with %d\n%s", code, out)
	}
}

// TestAdoptBeneathRunningRoles: some topics are deleted while roles run, and one is created anew. The roles end, and come back by themselves
// when the topics have been taken over.
func TestAdoptBeneathRunningRoles(t *testing.T) {
	c := harness.StartCluster(t, harness.Copies(1, 1, 1), harness.Supervised())
	w := &wreck{Cluster: c, t: t, adm: kadm.NewClient(c.Client())}
	client := load.Prepare(t, &c.Parts, c.Ingest[0].URL, load.Tenant)
	l := load.Start(t, &c.Parts, "before", 21, 2, client)
	w.await("40 requests", func() bool { return l.Sent() > 40 })
	l.Stop()
	c.WaitDrained(time.Minute)
	numbers := func(epoch int) string {
		return w.SQL(fmt.Sprintf("SELECT (SELECT count() FROM batches WHERE epoch = %[1]d) > 0, (SELECT count() FROM customer_events WHERE source_epoch = %[1]d) > 0", epoch))
	}
	highest := w.SQL("SELECT max(number) FROM batches")

	gone := []string{
		schemas.Batches, schemas.KindCustomerEvents, schemas.ProcessedTopic(schemas.KindReferrals), schemas.StateTopic(schemas.KindOwnership),
		schemas.StateTopic(schemas.Requests), schemas.Calls,
	}
	w.deleteTopics(gone...)
	if code, out, _ := w.counterfoil("adopt", "--yes"); code != 1 || !strings.Contains(out, "group counterfoil-sink has members (") || !strings.Contains(out, "stop every role") {
		t.Errorf("adopt beside running roles: exit code %d\n%s", code, out)
	}
	topic, _ := schemas.TopicNamed(schemas.Batches)
	configs := map[string]*string{}
	for k, v := range topic.Config {
		configs[k] = &v
	}
	if _, err := w.adm.CreateTopic(t.Context(), 1, 1, configs, topic.Name); err != nil {
		t.Fatal(err)
	}
	for _, copy := range c.All() {
		w.await("end of "+copy.Name(), func() bool {
			return len(copy.Exits()) > 0 && strings.Contains(copy.Log(), "ClickHouse knows it as") && strings.Contains(copy.Log(), "counterfoil adopt")
		})
	}
	w.awaitEmpty()
	p := w.plan()
	bases := map[string]int64{}
	for _, topic := range p.Topics {
		if topic.Base > 0 {
			bases[topic.Name] = topic.Base
		}
		want := adopt.StateMissing
		if topic.Name == schemas.Batches {
			want = adopt.StateRecreated
		}
		if topic.State != want || !slices.Contains(gone, topic.Name) {
			t.Errorf("%s is %s, want %s", topic.Name, topic.State, want)
		}
	}
	if len(p.Topics) != len(gone) || len(bases) != 2 || bases[schemas.Batches] == 0 || bases[schemas.KindCustomerEvents] == 0 {
		t.Errorf("%d topics, bases %v", len(p.Topics), bases)
	}
	w.adopt()
	w.Client().PurgeTopicsFromClient(gone...)
	for _, copy := range c.All() {
		copy.WaitReady()
	}
	began := time.Now()
	l = load.Start(t, &c.Parts, "after", 22, 2, client)
	w.await("60 requests", func() bool { return l.Sent() > 60 })
	l.Stop()
	c.WaitDrained(time.Minute)
	if n := numbers(1); n != "1\t1" {
		t.Errorf("there are batches and events of the second life: %s", n)
	}
	if n := w.SQL("SELECT count() FROM batches WHERE epoch = 1 AND number <= " + highest); n != "0" {
		t.Errorf("%s batches have no higher number than %s", n, highest)
	}
	w.exact()
	proven(t, &c.Parts, "--since", began.Format(time.RFC3339Nano))
}
