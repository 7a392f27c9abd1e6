import { render } from "preact";
import { t } from "./i18n";
import "./style.css";

render(<p class="notice">{t("app.notice")}</p>, document.getElementById("app")!);
