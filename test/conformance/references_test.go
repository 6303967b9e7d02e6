package conformance

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// id is the identifier of the reference with that name: 32 upper-case hex digits.
func id(name string) string {
	sum := sha256.Sum256([]byte(name))
	return strings.ToUpper(hex.EncodeToString(sum[:16]))
}

func ptr[T any](v T) *T { return &v }

// putReferences gives tenants what transcripts need beyond the references of the demo tenant.
func putReferences(p *harness.Parts, tenants ...string) {
	for _, tenant := range tenants {
		harness.PutReferences(p, schemas.Accounts, tenant,
			&schemas.Account{ID: id("account"), Number: "ACR-1", Name: ptr("Jane Doe")},
			&schemas.Account{ID: id("greek account"), Number: "ACR-GR", Name: ptr(`Μαρία "Μαίρη" & Υιοί <ΑΕ>`)},
			&schemas.Account{ID: id("card account"), Number: "ACR-CARD", PaymentMediumTypes: &[]string{id("card")}, PaymentMediumBrands: &[]string{id("visa")}},
		)
		harness.PutReferences(p, schemas.Participants, tenant,
			&schemas.Participant{ID: id("ann"), Number: "RP-ANN", AccountID: ptr(id("account"))},
			&schemas.Participant{ID: id("bob"), Number: "RP-BOB"},
			&schemas.Participant{ID: id("cat"), Number: "RP-CAT"},
			&schemas.Participant{ID: id("dan"), Number: "RP-DAN"},
		)
		harness.PutReferences(p, schemas.Units, tenant,
			&schemas.Unit{ID: id("euro unit"), Name: "Euro Unit", AlternativeCode: ptr("EU-1"), CurrencyID: ptr(id("euro")), CurrencyCode: ptr("EUR")},
			&schemas.Unit{ID: id("dollar unit"), Name: "Dollar Unit", CurrencyID: ptr(id("dollar")), CurrencyCode: ptr("USD")},
			&schemas.Unit{ID: id("greek unit"), Name: "Κατάστημα Λευκωσίας", CurrencyID: ptr(id("euro")), CurrencyCode: ptr("EUR")},
		)
		harness.PutReferences(p, schemas.Classifications, tenant,
			&schemas.Classification{ID: id("feedback"), Name: "Feedback", AlternativeCode: ptr("FB"), Kind: schemas.EventAchievement},
			&schemas.Classification{ID: id("monthly"), Name: "Monthly Statement", Kind: schemas.EventFinancialStatement},
			&schemas.Classification{ID: id("gain"), Name: "Gain", Kind: schemas.EventFinancialAchievement},
		)
		harness.PutReferences(p, schemas.Products, tenant,
			&schemas.Product{ID: id("lamp"), Code: "LAMP", AlternativeCode: ptr("L-ALT")},
			&schemas.Product{ID: id("chair"), Code: "CHAIR"},
		)
		harness.PutReferences(p, schemas.PaymentMediumTypes, tenant,
			&schemas.PaymentMediumType{ID: id("card"), Name: "Card", AlternativeCode: ptr("C")},
			&schemas.PaymentMediumType{ID: id("cash"), Name: "Cash"},
		)
		harness.PutReferences(p, schemas.PaymentMediumBrands, tenant,
			&schemas.PaymentMediumBrand{ID: id("visa"), Name: "Visa"},
			&schemas.PaymentMediumBrand{ID: id("amex"), Name: "Amex"},
		)
		harness.PutReferences(p, schemas.KPIs, tenant,
			&schemas.KPI{ID: id("revenue"), Name: "Revenue", AlternativeCode: ptr("REV")},
			&schemas.KPI{ID: id("churn"), Name: "Churn"},
		)
		harness.PutReferences(p, schemas.Invoices, tenant,
			&schemas.Invoice{ID: id("invoice"), Number: ptr("INV-1"), ReferenceNumber: ptr("REF-1"), BackOfficeCode: ptr("BO-1")},
		)
	}
}
