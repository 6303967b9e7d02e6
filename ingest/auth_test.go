package ingest_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// offline makes a service that is not connected to anything, for what needs no broker.
func offline(t *testing.T, keys ingest.Keys, change func(*ingest.Config)) *ingest.Service {
	t.Helper()
	cfg := config(t, nil)
	if change != nil {
		change(&cfg)
	}
	s, err := ingest.New(cfg, ingest.Deps{Keys: keys, Log: logger(t), Metrics: prometheus.NewRegistry()})
	check(t, err)
	return s
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func code(err error) ingest.Code {
	if err == nil {
		return "ok"
	}
	return ingest.AsError(err).Code
}

func TestEveryDoorTakesEveryFormOfAKey(t *testing.T) {
	keys := &keyTable{}
	s := offline(t, keys, nil)
	key := keys.add(t, "demo", ingest.KeyOptions{})
	id, secret, _ := strings.Cut(key, ".")
	disabled := keys.add(t, "demo", ingest.KeyOptions{})
	keys.change(disabled, func(k *schemas.APIKey) { k.Enabled = false })
	restricted := keys.add(t, "demo", ingest.KeyOptions{Doors: []string{ingest.DoorCRM}})
	wrong := key[:len(key)-1] + "!"

	for _, c := range []struct {
		name   string
		header string // "Name: value"
		extra  []ingest.Credential
		door   string
		want   ingest.Code
	}{
		{name: "bearer", header: "Authorization: Bearer " + key, want: "ok"},
		{name: "bearer in lower case", header: "Authorization: bearer " + key, want: "ok"},
		{name: "X-Api-Key", header: "X-Api-Key: " + key, want: "ok"},
		{name: "basic pair", header: "Authorization: " + basic(id, secret), want: "ok"},
		{name: "basic with the whole key as user", header: "Authorization: " + basic(key, ""), want: "ok"},
		{name: "basic, scheme in lower case", header: "Authorization: basic " + strings.TrimPrefix(basic(id, secret), "Basic "), want: "ok"},
		{name: "a partner's own place", extra: []ingest.Credential{ingest.KeyCredential(key)}, want: "ok"},
		{name: "a partner's own place decides", header: "X-Api-Key: " + key, extra: []ingest.Credential{ingest.KeyCredential(wrong)}, want: ingest.CodeUnauthenticated},
		{name: "a partner's own place is empty", header: "X-Api-Key: " + key, extra: []ingest.Credential{{}}, want: "ok"},
		{name: "of the tenant named", extra: []ingest.Credential{{ID: id, Secret: secret, Tenant: "demo"}}, want: "ok"},
		{name: "of another tenant than named", extra: []ingest.Credential{{ID: id, Secret: secret, Tenant: "other"}}, want: ingest.CodeUnauthenticated},
		{name: "no place holds anything", header: "Authorization: Bearer ", want: ingest.CodeUnauthenticated},
		{name: "none", want: ingest.CodeUnauthenticated},
		{name: "wrong secret", header: "X-Api-Key: " + wrong, want: ingest.CodeUnauthenticated},
		{name: "empty secret", header: "X-Api-Key: " + id + ".", want: ingest.CodeUnauthenticated},
		{name: "unknown id", header: "X-Api-Key: zzzzzz." + secret, want: ingest.CodeUnauthenticated},
		{name: "unknown id and no secret", header: "X-Api-Key: zzzzzz", want: ingest.CodeUnauthenticated},
		{name: "not base64", header: "Authorization: Basic !!", want: ingest.CodeUnauthenticated},
		{name: "disabled", header: "X-Api-Key: " + disabled, want: ingest.CodeUnauthenticated},
		{name: "door allowed", header: "X-Api-Key: " + restricted, door: ingest.DoorCRM, want: "ok"},
		{name: "door not allowed", header: "X-Api-Key: " + restricted, door: ingest.DoorHelloID, want: ingest.CodeForbidden},
		{name: "the job URLs are open to every door's keys", header: "X-Api-Key: " + restricted, door: ingest.DoorJobs, want: "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			if name, value, ok := strings.Cut(c.header, ": "); ok {
				r.Header.Set(name, value)
			}
			if c.door == "" {
				c.door = ingest.DoorHelloID
			}
			caller, err := s.Authenticate(r, c.door, c.extra...)
			if got := code(err); got != c.want {
				t.Fatalf("got %s (%v), want %s", got, err, c.want)
			}
			if err == nil && (caller.Tenant != "demo" || caller.KeyID != id && caller.KeyID != restricted[:6] || caller.Door != c.door) {
				t.Errorf("caller %+v", caller)
			}
		})
	}
}

func TestAnEmptyCredentialHidesNone(t *testing.T) {
	keys := &keyTable{}
	key := keys.add(t, "demo", ingest.KeyOptions{})
	s := offline(t, keys, nil)
	for _, authorization := range []string{"Bearer ", "Bearer", "Basic Og==", "Basic", "Negotiate x"} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set("Authorization", authorization)
		r.Header.Set("X-Api-Key", key)
		if _, err := s.Authenticate(r, ingest.DoorHelloID); err != nil {
			t.Errorf("%s: %v", authorization, err)
		}
	}
}

func TestAddressesAreTheSocketsUnlessAProxyIsTrusted(t *testing.T) {
	keys := &keyTable{}
	key := keys.add(t, "demo", ingest.KeyOptions{AllowedIPs: []string{"192.0.2.7", "10.1.0.0/16", "2001:db8::/32"}})
	direct := offline(t, keys, nil)
	proxied := offline(t, keys, func(c *ingest.Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")} })
	for _, c := range []struct {
		name      string
		service   *ingest.Service
		remote    string
		forwarded []string
		want      ingest.Code
	}{
		{"allowed address", direct, "192.0.2.7:1234", nil, "ok"},
		{"allowed prefix", direct, "10.1.200.3:1234", nil, "ok"},
		{"IPv4 in IPv6", direct, "[::ffff:10.1.2.3]:1234", nil, "ok"},
		{"IPv6", direct, "[2001:db8::1]:1234", nil, "ok"},
		{"another address", direct, "192.0.2.8:1234", nil, ingest.CodeForbidden},
		{"no address", direct, "@", nil, ingest.CodeForbidden},
		{"a header from anybody says nothing", direct, "192.0.2.8:1234", []string{"192.0.2.7"}, ingest.CodeForbidden},
		{"a header from an untrusted one says nothing", proxied, "192.0.2.8:1234", []string{"192.0.2.7"}, ingest.CodeForbidden},
		{"behind a trusted proxy", proxied, "172.16.0.1:1234", []string{"192.0.2.7"}, "ok"},
		{"behind two", proxied, "172.16.0.1:1234", []string{"192.0.2.7, 172.16.0.2"}, "ok"},
		{"behind two, headers apart", proxied, "172.16.0.1:1234", []string{"192.0.2.7", "172.16.0.2"}, "ok"},
		{"the right-most that is not trusted counts", proxied, "172.16.0.1:1234", []string{"192.0.2.7, 192.0.2.8"}, ingest.CodeForbidden},
		{"forged on the left", proxied, "172.16.0.1:1234", []string{"192.0.2.7, 192.0.2.9, 172.16.0.2"}, ingest.CodeForbidden},
		{"with a port", proxied, "172.16.0.1:1234", []string{"192.0.2.7:555"}, "ok"},
		{"nonsense", proxied, "172.16.0.1:1234", []string{"192.0.2.7, unknown"}, ingest.CodeForbidden},
		{"the proxy itself", proxied, "172.16.0.1:1234", nil, ingest.CodeForbidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			r.RemoteAddr = c.remote
			r.Header["X-Forwarded-For"] = c.forwarded
			r.Header.Set("X-Api-Key", key)
			if _, err := c.service.Authenticate(r, ingest.DoorCRM); code(err) != c.want {
				t.Errorf("got %s, want %s", code(err), c.want)
			}
		})
	}
}

func TestAKeysRateIsKept(t *testing.T) {
	keys := &keyTable{}
	s := offline(t, keys, nil)
	key := keys.add(t, "demo", ingest.KeyOptions{RateLimit: 5})
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header.Set("X-Api-Key", key)
	allowed := 0
	for range 20 {
		_, err := s.Authenticate(r, ingest.DoorCRM)
		if err == nil {
			allowed++
			continue
		}
		if e := ingest.AsError(err); e.Code != ingest.CodeRateLimited || e.Status() != 429 || e.RetryAfter <= 0 {
			t.Fatalf("%+v", e)
		}
	}
	if allowed < 5 || allowed > 7 {
		t.Errorf("%d of 20 were allowed at once, the limit is 5 a second", allowed)
	}
	keys.change(key, func(k *schemas.APIKey) { k.RateLimit = nil })
	if _, err := s.Authenticate(r, ingest.DoorCRM); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

func TestATokenIsGoodAsLongAsItsKey(t *testing.T) {
	keys := &keyTable{}
	s := offline(t, keys, nil)
	key := keys.add(t, "demo", ingest.KeyOptions{Doors: []string{ingest.DoorCRM}})
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header.Set("X-Api-Key", key)
	caller, err := s.Authenticate(r, ingest.DoorCRM)
	check(t, err)
	token := s.IssueToken(caller, "UNIT 1")
	use := func(s *ingest.Service, door, token string) (*ingest.Caller, error) {
		return s.AuthenticateToken(httptest.NewRequest(http.MethodPost, "/", nil), door, token)
	}
	if c, err := use(s, ingest.DoorCRM, token); err != nil || c.Tenant != "demo" || c.Unit != "UNIT 1" || c.KeyID != caller.KeyID {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := use(offline(t, keys, nil), ingest.DoorCRM, token); err != nil {
		t.Errorf("another copy: %v", err)
	}
	for name, text := range map[string]string{
		"empty": "", "one part": "abc", "cut": token[:len(token)-1], "changed": "A" + token[1:], "other signature": token[:strings.Index(token, ".")] + ".AAAA",
	} {
		if _, err := use(s, ingest.DoorCRM, text); code(err) != ingest.CodeUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := use(s, ingest.DoorHelloID, token); code(err) != ingest.CodeForbidden {
		t.Errorf("another door: %v", err)
	}
	rotated := offline(t, keys, func(c *ingest.Config) { c.TokenSecrets = []string{"the newest secret", c.TokenSecrets[0]} })
	if _, err := use(rotated, ingest.DoorCRM, token); err != nil {
		t.Errorf("after a new secret came: %v", err)
	}
	forgotten := offline(t, keys, func(c *ingest.Config) { c.TokenSecrets = []string{"the newest secret"} })
	if _, err := use(forgotten, ingest.DoorCRM, token); code(err) != ingest.CodeUnauthenticated {
		t.Errorf("after its secret went: %v", err)
	}
	keys.change(key, func(k *schemas.APIKey) { k.Enabled = false })
	if _, err := use(s, ingest.DoorCRM, token); code(err) != ingest.CodeUnauthenticated {
		t.Errorf("after its key was disabled: %v", err)
	}
}

func TestATokenExpires(t *testing.T) {
	tokens := ingest.NewTokens([]string{"a secret for tests"})
	now := time.Unix(1_000_000, 0)
	text := tokens.Sign(ingest.Token{Tenant: "demo", KeyID: "abcdef", Expires: now.Add(ingest.TokenLife).Unix()})
	if _, err := tokens.Verify(text, now.Add(ingest.TokenLife-time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := tokens.Verify(text, now.Add(ingest.TokenLife)); err == nil {
		t.Error("it outlives its time")
	}
}

func FuzzTokens(f *testing.F) {
	tokens := ingest.NewTokens([]string{"a secret for tests"})
	good := tokens.Sign(ingest.Token{Tenant: "demo", KeyID: "abcdef", Expires: 1 << 40})
	f.Add(good)
	f.Add("a.b")
	f.Add(good + "\n")
	f.Add(good[:len(good)-5] + "\r\n" + good[len(good)-5:])
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := tokens.Verify(text, time.Unix(0, 0)); err == nil && text != good {
			t.Errorf("%q is accepted", text)
		}
	})
}

func TestKeysAreMadeAsTheContractSays(t *testing.T) {
	key, record, err := ingest.NewKey("demo", ingest.KeyOptions{Doors: []string{ingest.DoorHelloID}, AllowedIPs: []string{"10.0.0.0/8"}, RateLimit: 7, Note: "n"})
	check(t, err)
	id, secret, ok := strings.Cut(key, ".")
	if !ok || len(id) != 6 || len(secret) != 22 || len(key) != 29 || record.ID != id {
		t.Errorf("key %q of %+v", key, record)
	}
	if strings.Contains(string(record.SecretHash), secret) || len(record.SecretHash) != 32 || !record.Enabled || *record.RateLimit != 7 {
		t.Errorf("record %+v", record)
	}
	_, _, err = ingest.NewKey("", ingest.KeyOptions{Doors: []string{"nowhere"}, AllowedIPs: []string{"10.0.0.300"}, RateLimit: -1})
	for _, part := range []string{"tenant", "nowhere", "10.0.0.300", "rate"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
}

func TestUntilKeysAreLoadedNobodyIsTurnedAway(t *testing.T) {
	s := offline(t, loading{}, nil)
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header.Set("X-Api-Key", "abcdef.secret")
	if _, err := s.Authenticate(r, ingest.DoorCRM); code(err) != ingest.CodeBusy {
		t.Errorf("got %v", err)
	}
}

type loading struct{}

func (loading) APIKey(string) *schemas.APIKey { return nil }
func (loading) Ready() error                  { return http.ErrServerClosed }
