package embedded

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/sr"
)

// openTestJournal serves a journal and returns a client for it.
func openTestJournal(t *testing.T, path string) (*sr.Client, func()) {
	t.Helper()
	j, err := openJournal(path, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(j)
	client, err := sr.NewClient(sr.URLs(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	return client, func() { srv.Close(); j.file.Close() }
}

func fixed(n int) sr.Schema {
	return sr.Schema{Schema: fmt.Sprintf(`{"type":"fixed","name":"f","size":%d}`, n)}
}

// content is all that a registry can tell.
func content(t *testing.T, c *sr.Client) map[string]any {
	t.Helper()
	ctx := t.Context()
	all := make(map[string]any)
	schemas, err := c.AllSchemas(sr.WithParams(ctx, sr.ShowDeleted))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range schemas {
		all[fmt.Sprintf("%s %d", s.Subject, s.Version)] = fmt.Sprint(s.ID, " ", s.Schema.Schema)
	}
	active, err := c.Subjects(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all["active"] = active
	for _, l := range c.Compatibility(ctx, sr.GlobalSubject, "a") {
		all["compatibility of "+l.Subject] = l.Level
	}
	return all
}

func TestJournalRemembersEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	c, end := openTestJournal(t, path)
	ctx := t.Context()
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for _, s := range []struct {
		subject string
		size    int
	}{{"a", 1}, {"b", 2}, {"b", 1} /* the id of a's */, {"gone", 3}, {"a", 4}, {"half", 5}, {"half", 6}} {
		_, err := c.CreateSchema(ctx, s.subject, fixed(s.size))
		do("register", err)
	}
	_, err := c.DeleteSubject(ctx, "gone", sr.SoftDelete)
	do("delete", err)
	_, err = c.DeleteSubject(ctx, "gone", sr.HardDelete)
	do("delete", err)
	do("delete", c.DeleteSchema(ctx, "half", 2, sr.SoftDelete))
	do("compatibility", c.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFullTransitive}, "a")[0].Err)
	want := content(t, c)

	// What changes nothing is not written.
	before, err := os.ReadFile(path)
	do("read", err)
	_, err = c.CreateSchema(ctx, "a", fixed(1))
	do("register again", err)
	_, err = c.LookupSchema(ctx, "a", fixed(1))
	do("look up", err)
	after, err := os.ReadFile(path)
	do("read", err)
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Error(diff)
	}
	end()

	// A line that was being written when the process died is as if it had never been.
	do("tear", os.WriteFile(path, append(before, `{"method":"POST","path":"/subjects/torn/versions","body":"`+strings.Repeat("x", 1000)...), 0o644))
	c, end = openTestJournal(t, path)
	if diff := cmp.Diff(want, content(t, c)); diff != "" {
		t.Error(diff)
	}
	s, err := c.CreateSchema(ctx, "new", fixed(7))
	do("register", err)
	if s.ID != 7 {
		t.Errorf("the seventh schema has id %d", s.ID)
	}
	want = content(t, c)
	end()
	c, end = openTestJournal(t, path)
	defer end()
	if diff := cmp.Diff(want, content(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestJournalRefusesALineThatItDoesNotUnderstand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	for _, text := range []string{"nonsense\n", `{"method":"POST","path":"/subjects/a/versions","body":{"schema":""}}` + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := openJournal(path, func(error) {}); err == nil {
			t.Errorf("opened %q", text)
		}
	}
}

// An answer that could be lost must not be given: the file is closed under the journal's feet.
func TestJournalAnswersNothingThatItCannotKeep(t *testing.T) {
	var failed error
	j, err := openJournal(filepath.Join(t.TempDir(), "journal.jsonl"), func(err error) { failed = err })
	if err != nil {
		t.Fatal(err)
	}
	j.file.Close()
	srv := httptest.NewServer(j)
	defer srv.Close()
	client, err := sr.NewClient(sr.URLs(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CreateSchema(t.Context(), "a", fixed(1))
	if err == nil || failed == nil {
		t.Errorf("answered %v, and the process is told %v", err, failed)
	}
	if res, err := http.Get(srv.URL + "/subjects"); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("reading: %v", err)
	} else {
		res.Body.Close()
	}
}
