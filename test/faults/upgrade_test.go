package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
)

// An installation of an earlier version becomes one of this version under load, and no promise is broken: ClickHouse gets columns that the running
// binary does not know, upstream producers an older and a newer schema beside its own, migrate runs, and the copies of all roles are replaced one by
// one. The earlier version is UPGRADE_FROM, a commit or tag, by default the last release or else the last commit.
func TestUpgradeUnderLoad(t *testing.T) {
	old := previousVersion(t)
	n := seed(t)
	r := newRun(t, harness.Program(old))
	l := r.load(n, 2)
	wait := func(items int, what string) { // the load goes on meanwhile
		t.Helper()
		for before, deadline := l.Items(), time.Now().Add(time.Minute); l.Items() < before+items; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: only %d items in a minute", what, l.Items()-before)
			}
		}
	}
	wait(150, "at first")

	addColumns(t, r)
	wait(150, "with newer tables")
	up := startUpstream(t, r)
	wait(150, "with other schemas")

	fresh := harness.Binary(t)
	out, err := harness.TryRun(t.Context(), fresh, r.c.Settings(), "", "migrate")
	if err != nil && strings.Contains(err.Error(), "has running members") {
		// As it says: a version that adds topics to a group needs that role stopped for the moment.
		t.Log(err)
		for _, copy := range slices.Concat(r.c.Process, r.c.Sink) {
			copy.Interrupt()
		}
		out, err = harness.TryRun(t.Context(), fresh, r.c.Settings(), "", "migrate")
		for _, copy := range slices.Concat(r.c.Process, r.c.Sink) {
			copy.Start()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("migrate: %s", strings.TrimSpace(out))
	wait(150, "after migrate")
	for _, copy := range r.c.All() {
		began := time.Now()
		copy.Use(fresh)
		r.excuse(func() {
			copy.Interrupt()
			copy.Restart()
		}, copy)
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", copy.PID())); err == nil && exe != fresh {
			t.Errorf("%s runs %s", copy.Name(), exe)
		}
		t.Logf("%s is of this version, after %s", copy.Name(), time.Since(began).Round(10*time.Millisecond))
		wait(50, "beside older copies")
	}
	wait(150, "at last")

	r.sent = append(r.sent, up.stop()...)
	if !r.check(l) {
		t.Fatalf("repeat it with: %s", again("TestUpgradeUnderLoad", n, "UPGRADE_FROM="+os.Getenv("UPGRADE_FROM")))
	}
	up.check(t, r)
	for _, table := range widened {
		if got := r.c.SQL("SELECT countIf(added_9999 != 7), count() > 0 FROM " + table); got != "0\t1" {
			t.Errorf("%s has %s rows with another value than the new column's default (and any rows at all)", table, got)
		}
	}
}

// previousVersion builds the version to upgrade from. Where the history does not have it the test is skipped, but in CI.
func previousVersion(t *testing.T) string {
	t.Helper()
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Dir = filepath.Join("..", "..")
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	missing := func(format string, args ...any) {
		t.Helper()
		if os.Getenv("CI") != "" {
			t.Fatalf(format, args...)
		}
		t.Skipf(format, args...)
	}
	rev := os.Getenv("UPGRADE_FROM")
	if rev == "" {
		if tag, err := git("describe", "--tags", "--abbrev=0"); err == nil {
			rev = tag
		} else {
			// Before the first release nobody has data that a migration that is still being written would have to care for.
			for _, candidate := range []string{"HEAD~1", "HEAD"} {
				if _, err := git("rev-parse", "--verify", "--quiet", candidate); err != nil {
					continue
				}
				if _, err := git("diff", "--quiet", "--diff-filter=MDR", candidate, "--", "sinks/clickhouse/migrations"); err == nil {
					rev = candidate
					break
				}
				t.Logf("not from %s: it has another text of a migration, and nothing was released yet", candidate)
			}
		}
	}
	if rev == "" {
		missing("there is no earlier version here to upgrade from: a shallow clone, or no git repository, or a migration is being changed; UPGRADE_FROM names one")
	}
	commit, err := git("rev-parse", "--verify", rev+"^{commit}")
	if err != nil {
		missing("the commit %s to upgrade from is not in this clone: %v", rev, err)
	}
	dir := t.TempDir()
	archive := exec.Command("sh", "-c", `git -C ../.. archive "$1" | tar -x -C "$2"`, "sh", commit, dir)
	if out, err := archive.CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", commit, err, out)
	}
	path := filepath.Join(dir, "counterfoil-before")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "./cmd/counterfoil")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	t.Logf("from %s (%.12s)", rev, commit)
	return path
}

// widened are tables that get a column: logs, and tables that the sink fills and moves facts between.
var widened = []string{"batches", "ownership", "customer_events", "sales", "unprocessed", "ownership_state", "calls_state", "calls_by_number_state", "order_lines_by_customer_state"}

// addColumns does what a later version's migration might: columns between those that are there, on running tables, recorded under a number that
// no binary here knows.
func addColumns(t *testing.T, r *run) {
	t.Helper()
	const column = " ADD COLUMN added_9999 Int64 DEFAULT 7 AFTER tenant"
	for _, table := range widened {
		if len(r.c.CH.Nodes) == 0 {
			r.c.SQL("ALTER TABLE " + table + column)
		}
		// Of a cluster each server has the rows of its shard, and a table that stands for those of all: the former first.
		for _, name := range []string{table + "_local", table} {
			for _, node := range r.c.CH.Nodes {
				node.Exec(t, "ALTER TABLE "+r.c.Database+"."+name+column)
			}
		}
	}
	r.c.SQL("INSERT INTO migrations (number, name, checksum) VALUES (9999, 'of_a_later_version', repeat('0', 64))")
}

// upstream is a producer of ownership with three schemas in turn: this version's, an older one that lacks a member, and a newer one that has one
// more, in the middle.
type upstream struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	sent   []checker.Sent
	values map[string]produced // by reference
}

type produced struct {
	value []byte
	item  []byte // as this version writes it; nil: to be unprocessed
}

func startUpstream(t *testing.T, r *run) *upstream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	u := &upstream{cancel: cancel, values: map[string]produced{}}
	t.Cleanup(cancel)
	type writer struct {
		name   string
		prefix []byte
		codec  *goavro.Codec // nil: ours
	}
	writers := []writer{{name: "this"}}
	for name, change := range map[string]func([]any) []any{
		"older": func(fields []any) []any {
			return slices.DeleteFunc(fields, func(f any) bool { return f.(map[string]any)["name"] == "has_product" })
		},
		"newer": func(fields []any) []any {
			return slices.Insert(fields, 2, any(map[string]any{"name": "colour", "type": "string", "default": "none"}))
		},
	} {
		var schema map[string]any
		if err := json.Unmarshal([]byte(schemas.OwnershipSchema.Text()), &schema); err != nil {
			t.Fatal(err)
		}
		schema["fields"] = change(schema["fields"].([]any))
		text, err := json.Marshal(schema)
		if err != nil {
			t.Fatal(err)
		}
		registered, err := r.c.Registry.Client().CreateSchema(ctx, schemas.KindOwnership+"-value", sr.Schema{Schema: string(text), Type: sr.TypeAvro})
		if err != nil {
			t.Fatalf("register the %s schema: %v", name, err)
		}
		codec, err := goavro.NewCodec(string(text))
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, writer{name, binary.BigEndian.AppendUint32([]byte{0}, uint32(registered.ID)), codec})
	}
	slices.SortFunc(writers, func(a, b writer) int { return strings.Compare(a.name, b.name) })
	client, tenant := r.c.Client(), r.loads[0].Client().Key.Tenant
	draw := func(n int) (marker string, p produced) {
		w := writers[n%len(writers)]
		marker = fmt.Sprintf("upstream-%s-%d", w.name, n)
		user, sku, by := fmt.Sprintf("Upstream-%d", n%7), "SKU-"+w.name, int64(n%4)
		if n%5 == 4 {
			user = "" // wrong
		}
		ours := r.c.Encode(schemas.KindOwnership, &schemas.Ownership{UserName: &user, ProductSKU: &sku, IncreaseQuantityBy: &by, Clear: []string{}})
		p = produced{value: ours, item: ours[5:]}
		if w.codec != nil {
			native := map[string]any{
				"user_name": goavro.Union("string", user), "product_sku": goavro.Union("string", sku), "increase_quantity_by": goavro.Union("long", by), "clear": []any{},
				"time_of_approval": nil, "source": nil, "quantity": nil,
			}
			if w.name == "newer" {
				native["has_product"], native["colour"] = nil, "red"
			}
			var err error
			if p.value, err = w.codec.BinaryFromNative(bytes.Clone(w.prefix), native); err != nil {
				panic(err) // our own types
			}
		}
		if user == "" {
			p.item = nil
		}
		return marker, p
	}
	u.done.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			marker, p := draw(n)
			ref := checker.Mark(marker, 0)
			env := schemas.Envelope{Tenant: tenant, Reply: -1, Ref: &ref}
			call, done := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			err := client.ProduceSync(call, &kgo.Record{Topic: schemas.KindOwnership, Partition: int32(n % 4), Headers: env.Headers(nil), Value: p.value}).FirstErr()
			done()
			s := checker.Sent{Marker: marker, Items: 1, Verdict: harness.Accepted, Told: time.Now()}
			if err != nil {
				s.Verdict = harness.Unknown
			}
			u.sent = append(u.sent, s)
			u.values[ref] = p
			time.Sleep(10 * time.Millisecond)
		}
	})
	return u
}

func (u *upstream) stop() []checker.Sent {
	u.cancel()
	u.done.Wait()
	return u.sent
}

// check compares the bytes of each record with those that its outcome carries.
func (u *upstream) check(t *testing.T, r *run) {
	t.Helper()
	kept := map[string]int{}
	heads := schemas.NewHeadDecoder[schemas.OwnershipResult](r.c.Registry, schemas.OwnershipProcessedSchema)
	for _, rec := range r.c.ReadTopics(schemas.ProcessedTopic(schemas.KindOwnership)) {
		var o schemas.OwnershipResult
		if err := heads.Decode(rec.Value, &o); err != nil {
			t.Fatal(err)
		}
		if o.Ref == nil || u.values[*o.Ref].value == nil {
			continue
		}
		if p := u.values[*o.Ref]; p.item == nil || !bytes.HasSuffix(rec.Value, p.item) {
			t.Errorf("%s was produced as %x and is processed as %x", *o.Ref, p.value, rec.Value)
		}
		kept["processed "+strings.Split(*o.Ref, "-")[1]]++
	}
	for line := range strings.Lines(r.c.SQL("SELECT ref, hex(original) FROM unprocessed WHERE startsWith(ref, 'upstream-')")) {
		ref, text, _ := strings.Cut(strings.TrimSpace(line), "\t")
		p := u.values[ref]
		if want := strings.ToUpper(hex.EncodeToString(p.value)); p.item != nil || text != want {
			t.Errorf("%s was produced as %s and is unprocessed as %s", ref, want, text)
		}
		kept["unprocessed "+strings.Split(ref, "-")[1]]++
	}
	t.Logf("outcomes of upstream records: %v", kept)
	if len(kept) != 6 {
		t.Errorf("outcomes of upstream records: %v, want some of each schema, processed and unprocessed", kept)
	}
}
