"""Tokens that announce themselves by a fixed prefix, with where each format is published.

Sources named "gitleaks" are rule ids of https://github.com/gitleaks/gitleaks (config/gitleaks.toml, MIT). The
expressions here are written anew and anchored to the token alone. A prefix that is no word by itself may
follow a letter: in JSON inside a text, a line break is a backslash and an n. Entropy is not used: it flags
ordinary prose.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class TokenFormat(NamedTuple):
    """One published token format; `needles` are texts of which at least one stands in every such token."""

    name: str
    needles: tuple[str, ...]
    expression: str
    source: str


TOKEN_FORMATS: Final = (
    TokenFormat(
        "AWS access key id",
        ("AKIA", "ASIA", "ABIA", "ACCA"),
        r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",
        "gitleaks aws-access-token",
    ),
    TokenFormat(
        "GitHub token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        r"gh[pousr]_[0-9A-Za-z]{36}\b",
        "gitleaks github-pat, github-oauth, github-app-token, github-refresh-token",
    ),
    TokenFormat(
        "GitHub fine-grained token",
        ("github_pat_",),
        r"github_pat_\w{82}\b",
        "gitleaks github-fine-grained-pat",
    ),
    TokenFormat(
        "GitLab token",
        ("glpat-", "gldt-", "glrt-", "glptt-"),
        r"gl(?:pat|dt|rt|ptt)-[\w-]{20,}",
        "gitleaks gitlab-pat, gitlab-deploy-token, gitlab-runner-authentication-token, gitlab-ptt",
    ),
    TokenFormat(
        "Google API key",
        ("AIza",),
        r"\bAIza[\w-]{35}(?![\w-])",
        "gitleaks gcp-api-key",
    ),
    TokenFormat(
        "Google OAuth client secret",
        ("GOCSPX-",),
        r"GOCSPX-[\w-]{28}(?![\w-])",
        "Google Cloud, OAuth 2.0 clients",
    ),
    TokenFormat(
        "Slack token",
        ("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xapp-"),
        r"xox[abeprs]-[0-9A-Za-z-]{10,}|xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+",
        "gitleaks slack-bot-token, slack-user-token, slack-app-token",
    ),
    TokenFormat(
        "Slack webhook",
        ("hooks.slack.com/",),
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{30,}",
        "gitleaks slack-webhook-url",
    ),
    TokenFormat(
        "Stripe key",
        ("sk_live_", "sk_test_", "sk_prod_", "rk_live_", "rk_test_", "rk_prod_"),
        r"[sr]k_(?:live|test|prod)_[0-9A-Za-z]{10,99}\b",
        "gitleaks stripe-access-token",
    ),
    TokenFormat(
        "OpenAI key",
        ("T3BlbkFJ", "sk-proj-", "sk-svcacct-", "sk-admin-"),
        r"sk-(?:[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}\b|(?:proj|svcacct|admin)-[\w-]{40,})",
        "gitleaks openai-api-key",
    ),
    TokenFormat(
        "Anthropic key",
        ("sk-ant-",),
        r"sk-ant-(?:api|admin)\d\d-[\w-]{80,}",
        "gitleaks anthropic-api-key, anthropic-admin-api-key",
    ),
    TokenFormat(
        "Hugging Face token",
        ("hf_", "api_org_"),
        r"\b(?:hf_|api_org_)[A-Za-z]{34}\b",
        "gitleaks huggingface-access-token, huggingface-organization-api-token",
    ),
    TokenFormat(
        "npm token",
        ("npm_",),
        r"\bnpm_[0-9A-Za-z]{36}\b",
        "gitleaks npm-access-token",
    ),
    TokenFormat(
        "PyPI token",
        ("pypi-AgEIcHlwaS5vcmc",),
        r"pypi-AgEIcHlwaS5vcmc[\w-]{50,}",
        "gitleaks pypi-upload-token",
    ),
    TokenFormat(
        "SendGrid key",
        ("SG.",),
        r"\bSG\.[\w-]{22}\.[\w-]{43}(?![\w-])",
        "gitleaks sendgrid-api-token",
    ),
    TokenFormat(
        "Twilio key",
        ("SK",),
        r"\bSK[0-9a-f]{32}\b",
        "gitleaks twilio-api-key",
    ),
    TokenFormat(
        "Shopify token",
        ("shpat_", "shpca_", "shppa_", "shpss_"),
        r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b",
        "gitleaks shopify-access-token",
    ),
    TokenFormat(
        "DigitalOcean token",
        ("doo_v1_", "dop_v1_", "dor_v1_"),
        r"do[opr]_v1_[0-9a-f]{64}\b",
        "gitleaks digitalocean-pat",
    ),
    TokenFormat(
        "Databricks token",
        ("dapi",),
        r"\bdapi[0-9a-f]{32}(?:-\d)?\b",
        "gitleaks databricks-api-token",
    ),
    TokenFormat(
        "Linear key",
        ("lin_api_",),
        r"lin_api_[0-9A-Za-z]{40}\b",
        "gitleaks linear-api-key",
    ),
    TokenFormat(
        "Notion token",
        ("ntn_",),
        r"ntn_[0-9]{11}[0-9A-Za-z]{35}\b",
        "gitleaks notion-api-token",
    ),
    TokenFormat(
        "Telegram bot token",
        (":AA", ":A"),
        r"\b[0-9]{5,16}:A[\w-]{34}(?![\w-])",
        "gitleaks telegram-bot-api-token",
    ),
    TokenFormat(
        "Vault token",
        ("hvs.", "hvb."),
        r"\bhv[sb]\.[\w-]{90,}",
        "gitleaks vault-service-token, vault-batch-token",
    ),
    TokenFormat(
        "Grafana token",
        ("glsa_", "glc_"),
        r"glsa_[0-9A-Za-z]{32}_[0-9A-Fa-f]{8}\b|glc_[0-9A-Za-z+/]{32,}={0,2}",
        "gitleaks grafana-service-account-token, grafana-cloud-api-token",
    ),
    TokenFormat(
        "New Relic key",
        ("NRAK-",),
        r"NRAK-[A-Z0-9]{27}\b",
        "gitleaks new-relic-user-api-key",
    ),
    TokenFormat(
        "Postman key",
        ("PMAK-",),
        r"PMAK-[0-9a-fA-F]{24}-[0-9a-fA-F]{34}\b",
        "gitleaks postman-api-token",
    ),
    TokenFormat(
        "Doppler token",
        ("dp.pt.",),
        r"dp\.pt\.[0-9A-Za-z]{43}\b",
        "gitleaks doppler-api-token",
    ),
    TokenFormat(
        "age secret key",
        ("AGE-SECRET-KEY-1",),
        r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}\b",
        "gitleaks age-secret-key",
    ),
    TokenFormat(
        "JSON web token",
        ("eyJ",),
        r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}={0,2}",
        "RFC 7519; gitleaks jwt",
    ),
    TokenFormat(
        "private key",
        ("PRIVATE KEY",),
        r"-----BEGIN(?: [A-Z]+){0,3} PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]{0,8000}?-----END[A-Z ]+-----)?",
        "RFC 7468; gitleaks private-key",
    ),
    TokenFormat(
        "Azure storage key",
        ("AccountKey=",),
        r"AccountKey=[0-9A-Za-z+/]{86}==",
        "Microsoft, Azure Storage connection strings",
    ),
    TokenFormat(
        "password in a URL",
        ("://",),
        r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>]{1,64}:[^\s/@\"'<>{}]{3,128}@[\w.-]+",
        "RFC 3986, section 3.2.1",
    ),
)
