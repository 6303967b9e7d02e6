package conformance

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/test/harness"
)

// transcript is one file.
type transcript struct {
	name  string // without folder and suffix
	demo  bool
	steps []step
}

// step is a request with its response, or a query with its rows.
type step struct {
	request, response string
	exact             bool
	sql, rows         string
}

// load reads all transcripts of a folder below testdata.
func load(t *testing.T, folder string) []*transcript {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Fatalf("no transcripts in %s", folder)
	}
	var all []*transcript
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := parse(text)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		tr.name = strings.TrimSuffix(filepath.Base(path), ".txtar")
		all = append(all, tr)
	}
	return all
}

func parse(text []byte) (*transcript, error) {
	archive := txtar.Parse(text)
	tr := &transcript{}
	for line := range strings.Lines(string(archive.Comment)) {
		switch line = strings.TrimSpace(line); {
		case line == "@demo":
			tr.demo = true
		case strings.HasPrefix(line, "@"):
			return nil, fmt.Errorf("no such directive: %s", line)
		}
	}
	files := archive.Files
	for len(files) > 0 {
		if len(files) == 1 {
			return nil, fmt.Errorf("the last step is half of a pair")
		}
		first, second := files[0], files[1]
		files = files[2:]
		a, b := string(first.Data), string(second.Data)
		switch first.Name + " " + second.Name {
		case "request response":
			tr.steps = append(tr.steps, step{request: a, response: b})
		case "request response exact":
			tr.steps = append(tr.steps, step{request: a, response: b, exact: true})
		case "sql rows":
			if regexp.MustCompile(`(?i)\bfinal\b`).MatchString(a) {
				return nil, fmt.Errorf("analysts need no FINAL: %s", a)
			}
			tr.steps = append(tr.steps, step{sql: a, rows: strings.TrimSuffix(b, "\n")})
		default:
			return nil, fmt.Errorf("a step cannot be %q and then %q", first.Name, second.Name)
		}
	}
	if len(tr.steps) == 0 {
		return nil, fmt.Errorf("no steps")
	}
	return tr, nil
}

// runner runs one transcript.
type runner struct {
	t     *testing.T
	url   string
	parts *harness.Parts
	me    harness.Key
	keys  map[string]harness.Key // by name
	token string                 // of me; made when it is first asked for
	saved map[string]string
}

func (r *runner) run(tr *transcript) {
	for i, s := range tr.steps {
		r.t.Logf("step %d", i+1)
		if s.sql != "" {
			r.query(&s)
		} else {
			r.call(&s)
		}
		if r.t.Failed() {
			return // what follows builds on it
		}
	}
}

// render fills in a template.
func (r *runner) render(text string) string {
	r.t.Helper()
	tmpl, err := template.New("step").Funcs(template.FuncMap{
		"tenant":    func() string { return r.me.Tenant },
		"token":     r.logIn,
		"key":       func(name ...string) (string, error) { k, err := r.key(name); return k.String(), err },
		"keyID":     func(name ...string) (string, error) { k, err := r.key(name); return k.ID, err },
		"keySecret": func(name ...string) (string, error) { k, err := r.key(name); return k.Secret, err },
		"basic": func(name ...string) (string, error) {
			k, err := r.key(name)
			return base64.StdEncoding.EncodeToString([]byte(k.ID + ":" + k.Secret)), err
		},
		"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"repeat": func(n int, sep, text string) string {
			all := make([]string, n)
			for i := range all {
				all[i] = strings.ReplaceAll(text, "#", strconv.Itoa(i))
			}
			return strings.Join(all, sep)
		},
		"id":    id,
		"day":   func(days int) string { return day(days).Format("20060102") },
		"lower": strings.ToLower,
		// The tokens that login cannot be brought to make: one that has expired, one signed by somebody else, one of a key that is disabled.
		"expired": func() string { return r.sign(tokenSecret, r.me, -time.Second) },
		"forged":  func() string { return r.sign("a secret of somebody else", r.me, time.Hour) },
		"tokenOf": func(name string) (string, error) {
			k, err := r.key([]string{name})
			return r.sign(tokenSecret, k, time.Hour), err
		},
		"saved": func(name string) (string, error) {
			v, ok := r.saved[name]
			if !ok {
				return "", fmt.Errorf("no answer had <save %s>", name)
			}
			return v, nil
		},
	}).Parse(text)
	if err != nil {
		r.t.Fatalf("template: %v\n%s", err, text)
	}
	var out strings.Builder
	if err := tmpl.Execute(&out, nil); err != nil {
		r.t.Fatalf("template: %v\n%s", err, text)
	}
	return out.String()
}

func (r *runner) key(name []string) (harness.Key, error) {
	if len(name) == 0 {
		return r.me, nil
	}
	k, ok := r.keys[name[0]]
	if !ok {
		return k, fmt.Errorf("no key is called %q", name[0])
	}
	return k, nil
}

func (r *runner) logIn() string {
	if r.token == "" {
		c := harness.NewClient(r.url, r.me)
		c.LogIn(r.t)
		r.token = c.Token()
	}
	return r.token
}

// tokenSecret signs the tokens of the product under test.
const tokenSecret = "the secret of the conformance tests"

func (r *runner) sign(secret string, k harness.Key, life time.Duration) string {
	return ingest.NewTokens([]string{secret}).Sign(ingest.Token{Tenant: k.Tenant, KeyID: k.ID, Expires: time.Now().Add(life).Unix()})
}

// message is a request or response in a transcript.
type message struct {
	first  string
	header [][2]string
	body   string
}

func parseMessage(text string) message {
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSuffix(head, "\n"), "\n")
	m := message{first: lines[0], body: strings.TrimSuffix(body, "\n")}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		m.header = append(m.header, [2]string{name, strings.TrimSpace(value)})
	}
	return m
}

// call sends a request and compares the response.
func (r *runner) call(s *step) {
	r.t.Helper()
	req := parseMessage(r.render(s.request))
	want := parseMessage(r.render(s.response))
	res, body := r.send(req)
	what := func() string {
		return fmt.Sprintf("%s\n%s\nanswered %d\n%s", req.first, cut(req.body), res.StatusCode, cut(string(body)))
	}
	if status := strconv.Itoa(res.StatusCode); status != want.first {
		r.t.Fatalf("want status %s; %s", want.first, what())
	}
	if problem := described(res, []byte(req.body), body); problem != "" {
		r.t.Errorf("%s; %s", problem, what())
	}
	m := &matcher{saved: r.saved}
	for _, h := range want.header {
		if problem := m.text(h[0], h[1], res.Header.Get(h[0])); problem != "" {
			r.t.Errorf("header %s; %s", problem, what())
		}
	}
	problem := ""
	switch {
	case want.body == "<any>":
	case s.exact:
		problem = exactly(want.body, string(body))
	case strings.HasPrefix(want.body, "{") || strings.HasPrefix(want.body, "["):
		problem = m.json(want.body, body)
	case want.body != strings.TrimSuffix(string(body), "\n"):
		problem = "want the body " + want.body
	}
	if problem != "" {
		r.t.Errorf("%s; %s", problem, what())
	}
}

// send sends a request as it stands. A server that refuses a request early closes the connection, and the client may see the closing before
// the answer: such a request is sent once more.
func (r *runner) send(m message) (*http.Response, []byte) {
	r.t.Helper()
	method, path, ok := strings.Cut(m.first, " ")
	if !ok {
		r.t.Fatalf("a request begins with method and path, not %q", m.first)
	}
	var problem error
	for range 3 {
		req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, bytes.NewReader([]byte(m.body)))
		if err != nil {
			r.t.Fatal(err)
		}
		for _, h := range m.header {
			req.Header.Add(h[0], h[1])
		}
		res, err := client.Do(req)
		if err == nil {
			var body []byte
			body, err = io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil {
				return res, body
			}
		}
		problem = err
	}
	r.t.Fatalf("%s: %v", m.first, problem)
	return nil, nil
}

// client follows no redirect: a partner's client does not either.
var client = &http.Client{
	Timeout:       60 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, ExpectContinueTimeout: time.Second},
}

// query asks ClickHouse until it answers what is expected, or for long enough.
func (r *runner) query(s *step) {
	r.t.Helper()
	sql, want := r.render(s.sql), r.render(s.rows)
	m := &matcher{saved: r.saved}
	harness.Eventually(r.t, time.Minute, func() string {
		got, err := r.parts.SQLAs(r.parts.CH.User, r.parts.CH.Password, sql)
		if err != nil {
			r.t.Fatalf("%s: %v", sql, err)
		}
		return m.rows(want, got)
	})
}

func cut(s string) string {
	const most = 3000
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s … (%d bytes)", s[:most], len(s))
}

func sortedNames(all []*transcript) []string {
	var names []string
	for _, tr := range all {
		names = append(names, tr.name)
	}
	slices.Sort(names)
	return names
}
