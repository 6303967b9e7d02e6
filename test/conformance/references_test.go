package conformance

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// id is the identifier of the reference with that name: 32 upper-case hex digits.
func id(name string) string {
	sum := sha256.Sum256([]byte(name))
	return strings.ToUpper(hex.EncodeToString(sum[:16]))
}

// putReferences gives tenants what transcripts need beyond the references of the demo tenant.
func putReferences(p *harness.Parts, tenants ...string) {
	var records []*kgo.Record
	for _, tenant := range tenants {
		records = append(records, harness.References(p, schemas.Accounts, tenant,
			&schemas.Account{ID: id("account"), Number: "ACR-1", Name: new("Jane Doe")},
			&schemas.Account{ID: id("greek account"), Number: "ACR-GR", Name: new(`Μαρία "Μαίρη" & Υιοί <ΑΕ>`)},
			&schemas.Account{ID: id("card account"), Number: "ACR-CARD", PaymentMediumTypes: &[]string{id("card")}, PaymentMediumBrands: &[]string{id("visa")}},
		)...)
		records = append(records, harness.References(p, schemas.Participants, tenant,
			&schemas.Participant{ID: id("ann"), Number: "RP-ANN", AccountID: new(id("account"))},
			&schemas.Participant{ID: id("bob"), Number: "RP-BOB"},
			&schemas.Participant{ID: id("cat"), Number: "RP-CAT"},
			&schemas.Participant{ID: id("dan"), Number: "RP-DAN"},
		)...)
		records = append(records, harness.References(p, schemas.Units, tenant,
			&schemas.Unit{ID: id("euro unit"), Name: "Euro Unit", AlternativeCode: new("EU-1"), CurrencyID: new(id("euro")), CurrencyCode: new("EUR")},
			&schemas.Unit{ID: id("dollar unit"), Name: "Dollar Unit", CurrencyID: new(id("dollar")), CurrencyCode: new("USD")},
			&schemas.Unit{ID: id("greek unit"), Name: "Κατάστημα Λευκωσίας", CurrencyID: new(id("euro")), CurrencyCode: new("EUR")},
		)...)
		records = append(records, harness.References(p, schemas.Classifications, tenant,
			&schemas.Classification{ID: id("feedback"), Name: "Feedback", AlternativeCode: new("FB"), Kind: schemas.EventAchievement},
			&schemas.Classification{ID: id("monthly"), Name: "Monthly Statement", Kind: schemas.EventFinancialStatement},
			&schemas.Classification{ID: id("gain"), Name: "Gain", Kind: schemas.EventFinancialAchievement},
		)...)
		records = append(records, harness.References(p, schemas.Products, tenant,
			&schemas.Product{ID: id("lamp"), Code: "LAMP", AlternativeCode: new("L-ALT")},
			&schemas.Product{ID: id("chair"), Code: "CHAIR"},
		)...)
		records = append(records, harness.References(p, schemas.PaymentMediumTypes, tenant,
			&schemas.PaymentMediumType{ID: id("card"), Name: "Card", AlternativeCode: new("C")},
			&schemas.PaymentMediumType{ID: id("cash"), Name: "Cash"},
		)...)
		records = append(records, harness.References(p, schemas.PaymentMediumBrands, tenant,
			&schemas.PaymentMediumBrand{ID: id("visa"), Name: "Visa"},
			&schemas.PaymentMediumBrand{ID: id("amex"), Name: "Amex"},
		)...)
		records = append(records, harness.References(p, schemas.KPIs, tenant,
			&schemas.KPI{ID: id("revenue"), Name: "Revenue", AlternativeCode: new("REV")},
			&schemas.KPI{ID: id("churn"), Name: "Churn"},
		)...)
		records = append(records, harness.References(p, schemas.Invoices, tenant,
			&schemas.Invoice{ID: id("invoice"), Number: new("INV-1"), ReferenceNumber: new("REF-1"), BackOfficeCode: new("BO-1")},
		)...)
	}
	p.Produce(records...)
}
