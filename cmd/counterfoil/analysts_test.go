package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/counterfoil/counterfoil/cmd/embedded"
)

// What the next `counterfoil up` would not start with is refused before it is written.
func TestAnalystsOfAFolderHaveNamesThatUpCanUse(t *testing.T) {
	dir := t.TempDir()
	create := func(name string, environ ...string) (code int, errs string) {
		t.Helper()
		var out, says bytes.Buffer
		code = run(t.Context(), &app{stdin: strings.NewReader(""), stdout: &out, stderr: &says, environ: environ},
			[]string{"analysts", "create", "--tenant", "acme", "--name", name, "--data", dir})
		return code, says.String()
	}
	for _, c := range []struct {
		name    string
		environ []string
		says    string
	}{
		{"a-b", nil, "letters, digits and underscores"},
		{"1a", nil, "a letter first"},
		{"a b", nil, "letters, digits and underscores"},
		{"default", nil, "ClickHouse's own user"},
		{"counterfoil_analyst_bob", nil, "names that begin with counterfoil_analyst_ belong to us"},
		{"cf_analyst_bob", []string{"CLICKHOUSE_DATABASE=cf"}, "names that begin with cf_analyst_ belong to us"},
	} {
		if code, errs := create(c.name, c.environ...); code != 2 || !strings.Contains(errs, c.says) {
			t.Errorf("%s: code %d: %s", c.name, code, errs)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, analystsFile)); err == nil {
		t.Error("a refused name was written")
	}
	for _, name := range []string{"bob", "Bob_2", "bob"} {
		if code, errs := create(name); code != 0 {
			t.Errorf("%s: code %d: %s", name, code, errs)
		}
	}
	users, err := embeddedAnalysts(dir, "counterfoil")
	if err == nil {
		err = embedded.WriteUsers(io.Discard, users)
	}
	if err != nil || len(users) != 2 {
		t.Errorf("%d users: %v", len(users), err)
	}
}
